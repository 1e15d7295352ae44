"""A client's session: its episode, and the part of an action chunk that it has not executed yet."""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.messages.observations import decoded, is_encoded, observation_from
from selfflow_robotics.messages.packing import MessageError
from selfflow_robotics.messages.specs import ActionSpec
from selfflow_robotics.serving.batching import Batcher

MAX_NAME_CHARS = 200


class Answer(NamedTuple):
    """Actions in the client's format, and the policy's time."""

    actions: np.ndarray  # float32 [n, 7]
    policy_ms: float


class Session:
    """One connection; `slot` is its number for the policy, `seed` that of its first episode.

    A connection begins with an episode of its own; `begin` starts the next one.
    """

    def __init__(self, slot: int, seed: int, batcher: Batcher, needs_proprio: bool) -> None:
        self.slot = slot
        self._batcher = batcher
        self._needs_proprio = needs_proprio
        self._pending: deque[np.ndarray] = deque()
        self._next_seed = seed
        self.begin()

    def begin(self, task: str = "", variant: str = "", seed: int | None = None) -> None:
        """A new episode: nothing of the last one is left. `seed` None: another than before."""
        if seed is None:
            seed, self._next_seed = self._next_seed, self._next_seed + 1
        self._episode: EpisodeSpec | None = EpisodeSpec(task, variant, seed)
        self._was_open = True
        self._pending.clear()

    def begin_as_told(self, value: Any) -> None:
        """`begin` with a client's `{task, variant, seed}`; each may be missing."""
        if not isinstance(value, dict):
            raise MessageError("an episode must be a map")
        seed = value.get("seed")
        if seed is not None and (type(seed) is not int or not 0 <= seed < 2**63):
            raise MessageError("an episode's seed must be an integer from 0 to 2 ** 63 - 1")
        task, variant = value.get("task", ""), value.get("variant", "")
        for name in (task, variant):
            if not isinstance(name, str) or len(name) > MAX_NAME_CHARS:
                raise MessageError("an episode's task and variant must be short texts")
        self.begin(task, variant, seed)

    async def chunk(self, message: Mapping[str, Any], spec: ActionSpec) -> Answer:
        """The policy's next chunk. Raises MessageError for a bad observation, and RequestError."""
        observation = observation_from(message, self._needs_proprio)
        if is_encoded(observation):  # takes milliseconds: not on the event loop
            observation = await asyncio.to_thread(decoded, observation)
        episode, self._episode = self._episode, None
        try:
            actions, policy_ms = await self._batcher.act(self.slot, episode, observation)
        except Exception:
            self._episode = self._episode or episode  # a repeated request begins it again
            raise
        vectors, self._was_open = spec.from_environment(actions, self._was_open)
        return Answer(vectors, policy_ms)

    async def step(self, message: Mapping[str, Any], spec: ActionSpec) -> np.ndarray:
        """The next action [7]: of the chunk, or of a new one at its end. Raises as `chunk`."""
        if not self._pending:
            self._pending.extend((await self.chunk(message, spec)).actions)
        return self._pending.popleft()
