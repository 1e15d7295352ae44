"""A policy on a server, as a `policies.base.Policy`: its weights, Python and GPU are elsewhere."""

import time
from typing import Any

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.errors import UserError
from selfflow_robotics.messages.specs import ActionSpec
from selfflow_robotics.policies.address import Address
from selfflow_robotics.policies.connections import Connection, OpenpiConnection, VlaEvalConnection

MIN_SIZE, MAX_SIZE = 16, 2048  # of images, in pixels


class RemotePolicy:
    """A connection for each slot, so that the server can tell episodes apart and batch them.

    The first connection is made at once, so that a server that is missing or does not fit is known
    before any simulator starts. A connection that was lost between episodes is made again; the
    server must then say what it said the first time.
    """

    name = "remote"
    privileged = False

    def __init__(
        self, address: Address, timeout_s: float = 30.0, image_key: str | None = None
    ) -> None:
        """`timeout_s`: for the handshake, and for each answer. `image_key`: name of the image, or
        with vla-eval of the camera; None: the server's or the usual one.

        Raises UserError if the server cannot be reached or does not fit.
        """
        self.address, self.timeout_s, self._image_key = address, timeout_s, image_key
        self._spare: Connection | None = None
        self._connections: dict[int, Connection] = {}
        self._spare = self._connect()
        self.told, self._identity = self._spare.told, self._spare.identity

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the results of this policy depend on, as far as it is known."""
        server = {"protocol": self.address.protocol, "address": self.address.shown}
        return {"remote": {**server, "handshake": self._identity}}

    @property
    def data_provenance(self) -> dict[str, Any] | None:
        """Simulator and robot of the training data, if the server tells them (ours does)."""
        data = self.told.get("training_data")
        if not isinstance(data, dict):
            return None
        texts = {k: v for k, v in data.items() if k != "image_size" and isinstance(v, str)}
        size = _size(data.get("image_size"))
        found = texts if size is None else {**texts, "image_size": list(size)}
        return found or None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) of the network's images, if the server tells it."""
        return _size(self.told.get("image_size"))

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        """Raises UserError if the server cannot be reached any more or has changed."""
        connection = self._connections.pop(slot, None) or self._spare
        self._spare = None
        if connection is None or not connection.is_open:
            connection = self._connect()
            if connection.identity != self._identity:
                connection.close()
                raise UserError(f"{connection.server} serves another policy than before")
        self._connections[slot] = connection
        connection.begin(episode)

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None = None,
    ) -> list[np.ndarray]:
        """The server's chunks as environment actions, NaN where they are not finite.

        Raises UserError if the server does not answer in time, or with something else.
        """
        connections = [self._connections[slot] for slot in slots]
        try:
            for connection, observation in zip(connections, observations, strict=True):
                connection.ask(observation)
            until = time.monotonic() + self.timeout_s
            return [connection.answer(until) for connection in connections]
        except BaseException:
            self.close()  # answers that were not read would be taken for later ones
            raise

    def answered(self, slot: int) -> tuple[ActionSpec, np.ndarray]:
        """The last actions [n, 7] of a slot as the server sent them, and how they were read."""
        answered = self._connections[slot].answered
        assert answered is not None
        return answered

    def close(self) -> None:
        """End all sessions."""
        for connection in [*self._connections.values(), self._spare]:
            if connection is not None:
                connection.close()
        self._connections, self._spare = {}, None

    def _connect(self) -> Connection:
        if self.address.protocol == "vla-eval":
            camera = self._image_key or "primary"
            return VlaEvalConnection(self.address, self.timeout_s, camera)
        return OpenpiConnection(self.address, self.timeout_s, self._image_key)


def _size(value: Any) -> tuple[int, int] | None:
    """A (height, width) that a server told, if it is one."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    if not all(type(side) is int and MIN_SIZE <= side <= MAX_SIZE for side in value):
        return None
    return value[0], value[1]
