"""Connections to policy servers: openpi's protocol, and that of vla-eval's model servers.

A connection is one session. `ask` sends an observation, `answer` waits for the actions, so that
several connections to a server that batches can wait together. Everything that goes wrong is a
UserError of one line that names the server.

Sources: openpi (packages/openpi-client) and vla-eval (src/vla_eval/connection.py, protocol).
"""

import hashlib
import json
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.messages.observations import (
    IMAGE_KEYS,
    OBSERVATION_FORMATS,
    openpi_message,
    vla_eval_message,
)
from selfflow_robotics.messages.packing import MAX_BYTES, Keys, MessageError, pack, unpack
from selfflow_robotics.messages.specs import OPENPI, ActionSpec, check_actions, vla_eval_spec
from selfflow_robotics.policies.address import TOKEN_VARIABLE, Address, read_token

try:
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
    from websockets.protocol import State
    from websockets.sync.client import connect
except ImportError:
    raise UserError(
        "policy=remote:... needs msgpack and websockets: pip install 'selfflow_robotics[serve]'"
    ) from None

CONNECT_S = 10.0
_VOLATILE = ("type", "payload", "seq", "timestamp")  # of our own servers' first message
MAX_SHOWN_CHARS = 200
VLA_EVAL_PROTOCOL = 1


class Connection(ABC):
    """What the two protocols share. `told`: what the server said at the handshake."""

    keys: Keys

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.server = f"policy server {address.shown}"
        self.timeout_s = timeout_s
        self.answered: tuple[ActionSpec, np.ndarray] | None = None  # the last actions, as they came
        token = read_token() if address.keeps_secrets else None
        headers = {"Authorization": f"Api-Key {token}"} if token else None
        self._stack = ExitStack()
        try:
            self._socket = self._stack.enter_context(
                connect(
                    address.url,
                    compression=None,
                    max_size=MAX_BYTES,
                    additional_headers=headers,
                    open_timeout=CONNECT_S,
                    ping_interval=None,  # a policy that compiles may not answer them
                    close_timeout=2,
                )
            )
        except InvalidStatus as error:
            raise self._refusal(error.response.status_code) from None
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            cause = str(getattr(error, "strerror", None) or error) or type(error).__name__
            raise self._error(f"cannot connect ({_line(cause)}); is it running?") from None
        try:
            self.told: dict[str, Any] = self.greet()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def greet(self) -> dict[str, Any]:
        """The handshake. Raises UserError if the server's specs do not fit."""

    @abstractmethod
    def begin(self, episode: EpisodeSpec) -> None:
        """An episode starts."""

    @abstractmethod
    def ask(self, observation: dict[str, Any]) -> None:
        """Send an observation of `envs.base`."""

    @abstractmethod
    def answer(self, until: float) -> np.ndarray:
        """The environment actions float32 [n, 7] for the last observation, NaN where the server's
        are not finite; waits until the time `until` of `time.monotonic`."""

    @property
    def identity(self) -> str:
        """Equal for equal handshakes: SHA-256."""
        known = {key: value for key, value in self.told.items() if key not in _VOLATILE}
        text = json.dumps(known, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed it."""
        return self._socket.protocol.state is State.OPEN

    def close(self) -> None:
        """End the session."""
        self._stack.close()

    def _send(self, message: Any) -> None:
        try:
            self._socket.send(pack(message, self.keys))
        except (ConnectionClosed, OSError):
            raise self._error("it closed the connection") from None

    def _receive(self, until: float, what: str) -> dict[str, Any]:
        try:
            data = self._socket.recv(timeout=max(0.001, until - time.monotonic()))
        except TimeoutError:
            raise self._error(f"no {what} within {self.timeout_s:g} s") from None
        except (ConnectionClosed, OSError) as error:
            raise self._error(f"it closed the connection ({_line(str(error))})") from None
        if isinstance(data, str):  # openpi's way to report an error, with a traceback
            raise self._error(f"it answered: {_line(data)}")
        try:
            message = unpack(data)
        except MessageError as error:
            raise self._error(f"unreadable {what}: {error}") from None
        if not isinstance(message, dict):
            raise self._error(f"its {what} is no map")
        return message

    def _environment_actions(self, spec: ActionSpec, actions: Any) -> np.ndarray:
        self.answered = spec, check_actions(actions, self.server)
        return spec.to_environment(self.answered[1])

    def _check_observations(self, spec: Any) -> None:
        """Refuse a server that needs what no simulator of ours has."""
        for name, part in spec.items() if isinstance(spec, dict) else ():
            format = part.get("format") if isinstance(part, dict) else None
            if format not in OBSERVATION_FORMATS:
                raise self._error(
                    f"it needs the observation {name} as {format}; there are only "
                    f"{', '.join(OBSERVATION_FORMATS)}"
                )

    def _error(self, text: str) -> UserError:
        return UserError(f"{self.server}: {text}")

    def _refusal(self, status: int) -> UserError:
        if status in (401, 403):
            return self._error(f"refused ({status}); set {TOKEN_VARIABLE} to its token")
        return self._error(f"refused (HTTP status {status})")


class OpenpiConnection(Connection):
    """openpi's protocol. Its servers know no episodes; ours does, and is told the seed."""

    keys = "bytes"

    def __init__(self, address: Address, timeout_s: float, image_key: str | None = None) -> None:
        """`image_key`: of the observation; None: the server's, or else the usual one."""
        self._image_key = image_key
        self._episode: EpisodeSpec | None = None
        super().__init__(address, timeout_s)

    def greet(self) -> dict[str, Any]:
        until = time.monotonic() + self.timeout_s
        try:
            metadata = self._receive(until, "metadata")
        except UserError as error:
            if "within" not in str(error):
                raise
            raise UserError(
                f"{error}; for a model server of vla-eval, write vla-eval+ws://"
            ) from None
        spec = metadata.get("action_spec")
        self.spec = OPENPI if spec is None else ActionSpec.from_json(spec, self.server)
        self._check_observations(metadata.get("observation_spec"))
        told = metadata.get("image_key")
        self._image_key = self._image_key or (told if isinstance(told, str) else IMAGE_KEYS[0])
        key = metadata.get("episode_key")
        self._episode_key = key if isinstance(key, str) else None
        return metadata

    def begin(self, episode: EpisodeSpec) -> None:
        self._episode = episode

    def ask(self, observation: dict[str, Any]) -> None:
        assert self._image_key is not None
        message = openpi_message(observation, self._image_key)
        if self._episode_key and self._episode:
            episode = self._episode
            message[self._episode_key] = {
                "task": episode.task,
                "variant": episode.variant,
                "seed": episode.seed,
            }
            self._episode = None
        self._send(message)

    def answer(self, until: float) -> np.ndarray:
        message = self._receive(until, "answer")
        if "actions" not in message:
            raise self._error(f"its answer has no actions, only {_line(', '.join(message))}")
        return self._environment_actions(self.spec, message["actions"])


class VlaEvalConnection(Connection):
    """The protocol of vla-eval's model servers, which return one action at a time."""

    keys = "str"

    def __init__(self, address: Address, timeout_s: float, camera: str = "primary") -> None:
        self._camera = camera
        self._seq, self._steps, self._began = 0, 0, 0.0
        self._task = ""
        super().__init__(address, timeout_s)

    def greet(self) -> dict[str, Any]:
        hello = {"harness_version": "selfflow_robotics", "protocol_version": VLA_EVAL_PROTOCOL}
        self._message("hello", hello)
        reply = self._receive(time.monotonic() + self.timeout_s, "hello")
        payload = reply.get("payload")
        if reply.get("type") != "hello" or not isinstance(payload, dict):
            raise self._error("it did not answer the hello; without vla-eval+ it is openpi's")
        if payload.get("protocol_version") != VLA_EVAL_PROTOCOL:
            raise self._error(
                f"it speaks protocol_version {payload.get('protocol_version')}, not 1"
            )
        spec = payload.get("action_spec")
        self._told_spec = ActionSpec.from_json(spec, self.server) if spec else None
        self._check_observations(payload.get("observation_spec"))
        return payload

    def begin(self, episode: EpisodeSpec) -> None:
        self._end()
        self._task = episode.task
        self.spec = self._told_spec or vla_eval_spec(get_task(episode.task).robot.name)
        task = {"name": episode.task, "task_name": episode.task, "episode_idx": episode.seed}
        self._message("episode_start", {"task": task})
        self._steps, self._began = 0, time.monotonic()

    def ask(self, observation: dict[str, Any]) -> None:
        self._message("observation", vla_eval_message(observation, self._camera, self._task))
        self._steps += 1

    def answer(self, until: float) -> np.ndarray:
        while True:
            reply = self._receive(until, "answer")
            payload = reply.get("payload")
            payload = payload if isinstance(payload, dict) else {}
            if reply.get("type") == "error":
                raise self._error(f"it answered: {_line(str(payload.get('error')))}")
            if reply.get("type") == "action" and reply.get("seq") == self._seq:
                break
        actions = payload.get("actions", payload.get("action"))
        if actions is None:
            raise self._error(f"its answer has no actions, only {_line(', '.join(payload))}")
        if isinstance(actions, np.ndarray) and actions.ndim == 1:
            actions = actions[None]
        return self._environment_actions(self.spec, actions)

    def close(self) -> None:
        with suppress(UserError):  # it may be closed already
            self._end()
        super().close()

    def _end(self) -> None:
        if self._steps:
            elapsed = time.monotonic() - self._began
            result = {"metrics": {}, "steps": self._steps, "elapsed_sec": elapsed}
            self._steps = 0
            self._message("episode_end", result)

    def _message(self, kind: str, payload: dict[str, Any]) -> None:
        self._seq += 1
        message = {"type": kind, "payload": payload, "seq": self._seq, "timestamp": time.time()}
        self._send(message)


def _line(text: str) -> str:
    """The last line of a text, which in a traceback is the cause; shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["nothing"]
    printable = "".join(c for c in lines[-1] if c.isprintable())
    return printable[:MAX_SHOWN_CHARS]
