"""A policy that repeats recorded actions without looking."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec

HOLD = np.zeros((1, 7), np.float32)


class ReplayPolicy:
    """Plays `actions[episode.seed]`, float32 [T, 7] in the environment's meaning, then holds still.

    With the seed, variant and options of the recording a deterministic simulator repeats it.
    """

    name = "replay"
    privileged = False
    looks = False

    def __init__(self, actions: Mapping[int, np.ndarray]) -> None:
        self.actions = actions
        self._rest: dict[int, np.ndarray] = {}

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        """Rewind. Raises KeyError if nothing was recorded for the episode's seed."""
        self._rest[slot] = np.asarray(self.actions[episode.seed], np.float32)

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None,
    ) -> list[np.ndarray]:
        """One recorded action for each slot."""
        chunks = []
        for slot in slots:
            rest = self._rest[slot]
            chunks.append(rest[:1] if len(rest) else HOLD)
            self._rest[slot] = rest[1:]
        return chunks
