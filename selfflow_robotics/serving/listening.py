"""A websocket server of this package: where it listens, and what it does not log."""

import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from selfflow_robotics.errors import UserError

try:
    from websockets.asyncio.server import serve
except ImportError:
    raise UserError("servers need websockets: pip install 'selfflow_robotics[serve]'") from None


@asynccontextmanager
async def listening(
    handler: Callable[..., Any],
    before_handshake: Callable[..., Any],
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    **limits: Any,
) -> AsyncIterator[int]:
    """A context in which `handler` gets the connections; its port (`port` 0: any free one).

    Args:
        before_handshake: answers plain HTTP requests, and refuses others.
        limits: settings of websockets' `serve`, such as timeouts and sizes.

    Raises UserError if the address cannot be used.
    """
    quiet = logging.getLogger(f"{__name__}.websockets")
    quiet.setLevel(logging.CRITICAL)  # it logs a traceback for every port scan
    try:
        server = await serve(
            handler,
            host,
            port,
            process_request=before_handshake,
            compression=None,
            server_header=None,
            ssl=tls,
            logger=quiet,
            **limits,
        )
    except OSError as error:
        cause = error.strerror or error
        raise UserError(f"cannot listen on {host}:{port} ({cause}); choose port=...") from None
    try:
        yield next(iter(server.sockets)).getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
