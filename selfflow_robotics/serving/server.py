"""A websocket server that speaks to clients of openpi and of vla-eval on the same port.

The protocols differ in who speaks first: openpi's server, with its metadata, or vla-eval's client,
with a hello. At the path / the first message of this server is both: openpi's metadata in a map
that vla-eval's client reads as the answer to the hello which it has sent or is about to send. At
/openpi and /vla-eval only that protocol is spoken, to the letter.

| protocol | request                     | answer                      | after an error           |
|----------|-----------------------------|-----------------------------|--------------------------|
| openpi   | observation, flat or nested | actions [n, 7], timings     | text frame, close 1011   |
| vla-eval | hello, episode_start,       | hello; action [7] to each   | error message; closed if |
|          | observation, episode_end    | observation, otherwise none | the frame was unreadable |

GET /healthz answers "OK", GET /health a JSON object with counts and latency percentiles (where a
token is needed, only with it). Browsers, which send an Origin, are refused.

Sources: openpi (src/openpi/serving/websocket_policy_server.py, packages/openpi-client) and vla-eval
(src/vla_eval/protocol, connection.py, model_servers/serve.py).
"""

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from selfflow_robotics.errors import UserError
from selfflow_robotics.messages.packing import MAX_BYTES, MessageError, pack, unpack
from selfflow_robotics.messages.specs import OPENPI
from selfflow_robotics.serving.access import Access
from selfflow_robotics.serving.batching import Batcher, RequestError
from selfflow_robotics.serving.description import (
    EPISODE_KEY,
    VLA_EVAL_PROTOCOL,
    Description,
    envelope,
)
from selfflow_robotics.serving.listening import listening
from selfflow_robotics.serving.session import Session

try:
    from websockets.asyncio.server import ServerConnection
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request, Response
except ImportError:
    raise UserError(
        "policy servers need msgpack and websockets: pip install 'selfflow_robotics[serve]'"
    ) from None

PATHS = ("/", "/openpi", "/vla-eval")
HANDSHAKE_S = 5.0
# A simulator that compiles shaders does not answer pings for minutes.
PING_INTERVAL_S, PING_TIMEOUT_S = 60.0, 600.0
SEND_S = 30.0  # for a client that does not read
CLOSE_ERROR, CLOSE_UNREADABLE, CLOSE_SLOW = 1011, 1007, 1008
KINDS = ("hello", "observation", "action", "episode_start", "episode_end", "error")

logger = logging.getLogger(__name__)


class Limits(NamedTuple):
    """What the server takes on."""

    max_clients: int = 64
    max_batch: int = 16
    window_s: float = 0.010  # to wait for a batch, at most
    max_waiting: int = 64  # requests
    deadline_s: float = 20.0  # for an answer; vla-eval's client waits 30


class PolicyServer:
    """Serves the sessions of one policy; see the module's docstring."""

    def __init__(
        self, batcher: Batcher, description: Description, access: Access, limits: Limits, seed: int
    ) -> None:
        self.batcher, self.description, self.access = batcher, description, access
        self.limits, self.seed = limits, seed
        self._free = list(range(limits.max_clients))[::-1]  # slots
        self._sessions = 0  # so far
        self._started = time.monotonic()

    def health(self) -> dict[str, Any]:
        """The answer to /health: `status` is ok, or stalled if the policy exceeds its deadline."""
        return {
            "status": "stalled" if self.batcher.is_stalled else "ok",
            "policy": self.description.policy,
            "clients": self.batcher.clients,
            "uptime_s": round(time.monotonic() - self._started, 1),
            **self.batcher.latencies.to_json(),
        }

    def before_handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer health checks; refuse requests without the token or beyond the limits."""
        path, is_allowed = urlsplit(request.path).path, self.access.allows(request.headers)
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if path == "/health":
            health = self.health()
            shown = health if is_allowed else {"status": health["status"]}
            is_ok = health["status"] == "ok"
            status = HTTPStatus.OK if is_ok else HTTPStatus.SERVICE_UNAVAILABLE
            response = connection.respond(status, json.dumps(shown) + "\n")
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        if not is_allowed:
            return connection.respond(HTTPStatus.UNAUTHORIZED, "the token is missing or wrong\n")
        if path not in PATHS:
            text = f"no such path; there are {', '.join(PATHS)}, /health and /healthz\n"
            return connection.respond(HTTPStatus.NOT_FOUND, text)
        if not self._free:
            text = f"all {self.limits.max_clients} places are taken\n"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, text)
        return None

    async def serve_client(self, connection: ServerConnection) -> None:
        """The life of a connection."""
        if not self._free:  # taken since the handshake began
            await connection.close(1013, "all places are taken")
            return
        slot = self._free.pop()
        seed, self._sessions = self.seed + self._sessions, self._sessions + 1
        self.batcher.clients += 1
        session = Session(slot, seed, self.batcher, self.description.needs_proprio)
        client = _Client(connection, session, self)
        try:
            await client.run()
        except ConnectionClosed:
            pass
        except TimeoutError:
            connection.transport.abort()  # it does not read a closing message either
        except Exception:
            logger.exception("a client's connection failed")
            await connection.close(CLOSE_ERROR, "internal error")
        finally:
            self.batcher.clients -= 1
            self._free.append(slot)


class _Client:
    """One connection, once the handshake is done."""

    def __init__(
        self, connection: ServerConnection, session: Session, server: PolicyServer
    ) -> None:
        self.connection, self.session = connection, session
        self.description = server.description
        self.latencies = server.batcher.latencies
        request = connection.request
        self.path = urlsplit(request.path).path if request else "/"

    async def run(self) -> None:
        is_vla_eval = self.path == "/vla-eval"
        if self.path == "/openpi":
            await self._send(pack(self.description.metadata(), "bytes"))
        elif not is_vla_eval:
            hello = self.description.hello(seq=0)
            await self._send(pack({**self.description.metadata(), **hello}, "bytes"))
        previous_ms: float | None = None
        is_first = True
        async for data in self.connection:
            began = time.perf_counter()
            try:
                message = _message(data)
            except MessageError as error:
                self.latencies.errors["message"] += 1
                if is_vla_eval:
                    await self._send(pack(envelope("error", {"error": str(error)}, 0)))
                    await self.connection.close(CLOSE_UNREADABLE, "unreadable message")
                else:
                    await self._refuse(str(error))
                return
            if is_first and self.path == "/":
                is_vla_eval = message.get("type") in KINDS and "payload" in message
            if is_vla_eval:
                await self._answer_vla_eval(message, has_greeted=self.path == "/")
            else:
                answer = await self._answer_openpi(message)
                if answer is None:
                    return
                answer["server_timing"] = {"infer_ms": answer["policy_timing"]["infer_ms"]}
                if previous_ms is not None:
                    answer["server_timing"]["prev_total_ms"] = previous_ms
                await self._send(pack(answer, "bytes"))
                previous_ms = (time.perf_counter() - began) * 1e3
            is_first = False

    async def _answer_openpi(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to an observation; None after an error, with the connection closed."""
        try:
            if EPISODE_KEY in message:
                self.session.begin_as_told(message.pop(EPISODE_KEY))
            actions, policy_ms = await self.session.chunk(message, OPENPI)
        except (MessageError, RequestError) as error:
            self._count(error)
            await self._refuse(str(error))
            return None
        return {"actions": actions, "policy_timing": {"infer_ms": policy_ms}}

    async def _answer_vla_eval(self, message: dict[str, Any], has_greeted: bool) -> None:
        kind, payload, seq = message.get("type"), message.get("payload"), message.get("seq")
        seq = seq if type(seq) is int and 0 <= seq < 2**63 else 0
        try:
            if kind not in KINDS or not isinstance(payload, dict) or "seq" not in message:
                raise MessageError(
                    f"a message needs type ({', '.join(KINDS)}), payload (a map), seq and timestamp"
                )
            if kind == "hello":
                theirs = payload.get("protocol_version")
                if theirs != VLA_EVAL_PROTOCOL:
                    text = f"this server speaks protocol_version {VLA_EVAL_PROTOCOL}, not "
                    raise MessageError(text + str(theirs)[:20])
                if not has_greeted:
                    await self._send(pack(self.description.hello(seq)))
            elif kind == "episode_start":
                self._begin(payload.get("task"))
            elif kind == "observation":
                action = await self.session.step(payload, self.description.vla_eval)
                await self._send(pack(envelope("action", {"actions": action}, seq)))
        except (MessageError, RequestError) as error:
            self._count(error)
            await self._send(pack(envelope("error", {"error": str(error)}, seq)))

    def _begin(self, task: Any) -> None:
        task = task if isinstance(task, dict) else {}
        name, index = task.get("task_name", task.get("name", "")), task.get("episode_idx")
        told: dict[str, Any] = {"task": name} if isinstance(name, str) else {}
        if type(index) is int and index >= 0:
            told["seed"] = index
        self.session.begin_as_told(told)

    def _count(self, error: MessageError | RequestError) -> None:
        kind = error.kind if isinstance(error, RequestError) else "message"
        self.latencies.errors[kind] += 1

    async def _refuse(self, text: str) -> None:
        """openpi's way: its client raises the text of a text frame."""
        await self._send(f"error: {text}")
        await self.connection.close(CLOSE_ERROR, "request refused")

    async def _send(self, data: bytes | str) -> None:
        async with asyncio.timeout(SEND_S):
            await self.connection.send(data)


def _message(data: bytes | str) -> dict[str, Any]:
    if isinstance(data, str):
        raise MessageError("a message must be a binary frame with msgpack, not text")
    message = unpack(data)
    if not isinstance(message, dict):
        raise MessageError(f"a message must be a map, got {type(message).__name__}")
    return message


@asynccontextmanager
async def serving(
    batcher: Batcher,
    description: Description,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    access: Access | None = None,
    tls: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    seed: int = 0,
) -> AsyncIterator[tuple[PolicyServer, int]]:
    """A context with the running server and its port (`port` 0: any free one).

    Raises UserError if the address cannot be used.
    """
    limits = limits or Limits()
    policy_server = PolicyServer(batcher, description, access or Access(None), limits, seed)
    own = {
        "origins": [None],
        "max_size": MAX_BYTES,
        "max_queue": 4,
        "open_timeout": HANDSHAKE_S,
        "ping_interval": PING_INTERVAL_S,
        "ping_timeout": PING_TIMEOUT_S,
        "close_timeout": HANDSHAKE_S,
    }
    async with (
        batcher,
        listening(
            policy_server.serve_client, policy_server.before_handshake, host, port, tls, **own
        ) as found,
    ):
        yield policy_server, found
