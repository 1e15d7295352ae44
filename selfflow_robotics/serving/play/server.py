"""The web server of the game: one page, and a websocket for each tab.

| from the page                                      | answer                                      |
|----------------------------------------------------|---------------------------------------------|
| (connects)                                         | `hello` (JSON text): tasks, keys, seed      |
| `{"type": "reset", "task": ..., "seed": ...}`      | `view`                                      |
| `{"type": "act", "keys": [...], "toggle", "slow"}` | `view`                                      |
| `{"type": "policy"}`, `{"type": "resync"}`         | `view`                                      |

`error` (JSON text with one line) comes instead of a view. Where the network has a policy, a
`future` follows, what the policy would do, imagined: as soon as the tab pauses, and once a second
while it acts, as it slows the next frames down. Views and futures are binary: the length of a JSON
object (uint32, little endian), the object, and its `count` frames as RGB bytes.

A request comes from this page or it is refused: its Origin must be the address that it asks for,
and without a token that must be a name of this machine (DNS can be made to point anywhere).
"""

import asyncio
import json
import logging
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from selfflow_robotics.envs.client import SimulatorError
from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.json_file import parse
from selfflow_robotics.policies.address import is_loopback
from selfflow_robotics.serving.access import Access
from selfflow_robotics.serving.listening import listening
from selfflow_robotics.serving.play.controls import held_keys
from selfflow_robotics.serving.play.session import PlaySession, View, imagine_future

try:
    from websockets.asyncio.server import ServerConnection
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request, Response
except ImportError:
    raise UserError("the page needs websockets: pip install 'selfflow_robotics[serve]'") from None

PAGE = Path(__file__).with_name("page.html")
SOCKET = "/play"
MAX_BYTES, MAX_QUEUE = 4096, 4  # of a message; messages that wait before the tab must
HANDSHAKE_S, SEND_S, PING_S = 5.0, 30.0, 20.0
PAUSE_S, FUTURE_S = 0.2, 1.0  # a tab without requests for so long pauses; between two futures
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src "
    "'unsafe-inline'; img-src data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

logger = logging.getLogger(__name__)


class PlayServer:
    """The tabs of one checkpoint."""

    def __init__(
        self,
        new_session: Callable[[], PlaySession],
        hello: dict[str, Any],
        access: Access,
        max_tabs: int,
        future_steps: int,
    ) -> None:
        """`new_session` may block; `hello`: what the page is told first; `future_steps`: solver
        steps of futures."""
        self.new_session, self.hello, self.access = new_session, hello, access
        self.max_tabs, self.future_steps = max_tabs, future_steps
        self._tabs = 0
        # A tab needs a thread for its steps, and one for futures.
        self.pool = ThreadPoolExecutor(2 * max_tabs, thread_name_prefix="play")

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's result, from a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, function, *arguments)

    def before_handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer with the page; refuse whoever has no business here."""
        parts, host = urlsplit(request.path), str(request.headers.get("Host", ""))
        if parts.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if not self.access.allows(request.headers):
            refusal = connection.respond(HTTPStatus.UNAUTHORIZED, "the token is missing\n")
            refusal.headers["WWW-Authenticate"] = 'Basic realm="the token is the password"'
            return refusal
        if self.access.is_open and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return connection.respond(HTTPStatus.FORBIDDEN, "open this page at 127.0.0.1\n")
        if parts.path == "/":
            return _page(connection)
        if parts.path != SOCKET:
            return connection.respond(HTTPStatus.NOT_FOUND, "no such page\n")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return connection.respond(HTTPStatus.FORBIDDEN, "this is another site's page\n")
        return None

    async def serve_tab(self, connection: ServerConnection) -> None:
        """The life of a tab's connection."""
        if self._tabs >= self.max_tabs:  # only a closed connection can tell a browser's page why
            await connection.close(1013, "every place is taken by another tab")
            return
        self._tabs += 1
        try:
            session = await self.in_thread(self.new_session)
            try:
                await _Tab(connection, session, self).run()
            finally:
                await self.in_thread(session.__exit__)
        except ConnectionClosed:
            pass
        except TimeoutError:
            connection.transport.abort()  # it does not read a closing message either
        except Exception:
            logger.exception("a tab's connection failed")
            with suppress(ConnectionClosed):
                await connection.close(1011, "internal error")
        finally:
            self._tabs -= 1


class _Tab:
    def __init__(
        self, connection: ServerConnection, session: PlaySession, server: PlayServer
    ) -> None:
        self.connection, self.session, self.server = connection, session, server
        self._future: asyncio.Task[None] | None = None
        self._viewed_s = self._future_s = 0.0  # when the last view was sent, and future begun

    async def run(self) -> None:
        await self._send(_text("hello", **self.server.hello))
        try:
            async for data in self.connection:
                try:
                    view = await self._answer(_message(data))
                except UserError as error:
                    await self._send(_text("error", message=str(error)))
                except SimulatorError as error:
                    logger.error("the simulator failed: %s", " ".join(str(error).split()))
                    text = await self.server.in_thread(self._mend)
                    await self._send(_text("error", message=text))
                else:
                    await self._send(_frames("view", view.told, view.imagined, view.truth))
                    self._viewed_s = time.monotonic()
                    if self.session.policy is not None and (
                        self._future is None or self._future.done()
                    ):
                        self._future = asyncio.create_task(self._imagine_future())
        finally:
            if self._future is not None:
                self._future.cancel()
                await asyncio.wait([self._future])

    async def _answer(self, message: dict[str, Any]) -> View:
        kind, session = message.get("type"), self.session
        if kind == "reset":
            return await self._do(session.reset, message.get("task"), message.get("seed"))
        if kind == "act":
            keys = held_keys(message.get("keys", []))
            toggle, slow = (message.get(name) is True for name in ("toggle", "slow"))
            return await self._do(session.act, keys, toggle, slow)
        if kind == "policy":
            return await self._do(session.act_as_policy)
        if kind == "resync":
            return await self._do(session.resync)
        raise unknown("type of message", str(kind)[:20], ("reset", "act", "policy", "resync"))

    async def _do(self, method: Callable[..., View], *arguments: Any) -> View:
        return await self.server.in_thread(method, *arguments)

    def _mend(self) -> str:
        """Replace the simulator and record what was played; what to say of it."""
        self.session.client.restart()
        try:
            self.session.end()
        except UserError as error:
            return f"the simulator failed, and {error}"
        return "the simulator failed and has been started again; begin a new episode"

    async def _imagine_future(self) -> None:
        """Send the future of the last view, and of those that come meanwhile."""
        policy, steps, sent = self.session.policy, self.server.future_steps, None
        try:
            while self.session.view is not sent:
                while (now := time.monotonic()) < self._future_s + FUTURE_S and (
                    now < self._viewed_s + PAUSE_S
                ):
                    await asyncio.sleep(PAUSE_S / 4)
                self._future_s, view = now, self.session.view
                frames = await self.server.in_thread(imagine_future, policy, view, steps)
                await self._send(_frames("future", {"step": view.told["step"]}, *frames))
                sent = view
        except (ConnectionClosed, TimeoutError):
            pass  # `run` meets them too
        except Exception:
            logger.exception("a policy's future failed")

    async def _send(self, data: bytes | str) -> None:
        async with asyncio.timeout(SEND_S):
            await self.connection.send(data)


def _page(connection: ServerConnection) -> Response:
    response = connection.respond(HTTPStatus.OK, PAGE.read_text())
    del response.headers["Content-Type"]
    for name, value in {"Content-Type": "text/html; charset=utf-8", **HEADERS}.items():
        response.headers[name] = value
    return response


def _message(data: bytes | str) -> dict[str, Any]:
    try:
        message = parse(data) if isinstance(data, str) else None
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise UserError("a message must be a JSON object")
    return message


def _text(kind: str, **content: Any) -> str:
    return json.dumps({"type": kind, **content})


def _frames(kind: str, told: dict[str, Any], *frames: np.ndarray) -> bytes:
    height, width = frames[0].shape[:2]
    content = {"type": kind, **told, "count": len(frames), "height": height, "width": width}
    header = json.dumps(content).encode()
    return struct.pack("<I", len(header)) + header + b"".join(x.tobytes() for x in frames)


@asynccontextmanager
async def playing(
    server: PlayServer,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """A context in which the page is served; its port (`port` 0: any free one).

    Raises UserError if the address cannot be used.
    """
    limits = {
        "max_size": MAX_BYTES,
        "max_queue": MAX_QUEUE,
        "open_timeout": HANDSHAKE_S,
        "ping_interval": PING_S,
        "ping_timeout": PING_S,
        "close_timeout": HANDSHAKE_S,
    }
    try:
        async with listening(
            server.serve_tab, server.before_handshake, host, port, tls, **limits
        ) as own:
            yield own
    finally:
        server.pool.shutdown()
