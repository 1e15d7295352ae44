"""Temporal ensemble: observe at every step, and average the chunks that plan it (ACT, arXiv
2304.13705)."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfflow_robotics.errors import UserError
from selfflow_robotics.policies.chunk_sampler import ChunkSampler, Seen
from selfflow_robotics.robot.actions import ARM, GRIPPER


@dataclass
class _Episode:
    seed: int
    chunks: deque[np.ndarray]  # policy vectors [H, 7], the newest first
    looks: int = 0


class Ensemble:
    """The weighted mean of all predictions of a step that are at least `delay` steps old.

    Weights are exp(-decay i), where i = 0 is the oldest prediction, as in ACT: a positive `decay`
    trusts old predictions more, a negative one new ones. The gripper is open or closed, so its
    predictions are not averaged: they vote, with the same weights.
    """

    steps = 1

    def __init__(self, sampler: ChunkSampler, delay: int = 0, decay: float = 0.01) -> None:
        """Raises UserError if no prediction of a step is that old."""
        if delay >= sampler.horizon:
            raise UserError(
                f"delay must be below {sampler.horizon} (the chunk) with execution=ensemble, got "
                f"{delay}"
            )
        self.sampler, self.delay, self.decay = sampler, delay, decay
        self._episodes: dict[int, _Episode] = {}

    def begin(self, slot: int, seed: int) -> None:
        self._episodes[slot] = _Episode(seed, deque(maxlen=self.sampler.horizon))

    def act(self, slots: Sequence[int], seen: Sequence[Seen]) -> list[np.ndarray]:
        episodes = [self._episodes[slot] for slot in slots]
        noise = [self.sampler.noise(episode.seed, episode.looks) for episode in episodes]
        chunks = self.sampler.decode(self.sampler.chunks(seen, noise))
        actions = []
        for episode, chunk in zip(episodes, chunks, strict=True):
            episode.chunks.appendleft(chunk)
            episode.looks += 1
            newest = min(self.delay, len(episode.chunks) - 1)
            ages = range(newest, len(episode.chunks))
            predictions = np.stack([episode.chunks[age][age] for age in ages])
            actions.append(average(predictions, self.decay)[None])
        return actions


def average(predictions: np.ndarray, decay: float) -> np.ndarray:
    """The action float32 [7] from predictions [n, 7], the newest first: see `Ensemble`."""
    weights = np.exp(-decay * np.arange(len(predictions))[::-1])
    weights = weights / weights.sum()
    action = np.empty(predictions.shape[1], np.float32)
    action[ARM] = weights @ predictions[:, ARM]
    action[GRIPPER] = weights @ (predictions[:, GRIPPER] > 0.5) > 0.5
    return action
