"""Stream actions: every observation is one network evaluation, and finishes one action.

The chunk's actions stand on a staircase of timesteps (`flow.staircase`): the next one is almost
clean, the last one is noise. Train for it with timesteps per token: finetune/rt1.py with
`policy_objective.schedule=staircase` or `per_token`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfflow_robotics.flow.staircase import advance
from selfflow_robotics.policies.chunk_sampler import ChunkSampler, Seen


@dataclass
class _Episode:
    seed: int
    looks: int = 0
    tokens: Tensor | None = None  # [H, C], on their stairs


class Streaming:
    """One evaluation for an action, once the stream runs; its start takes one for each stair."""

    steps = 1

    def __init__(self, sampler: ChunkSampler) -> None:
        """Raises UserError for settings of the sampler that have no effect."""
        sampler.check_streaming()
        self.sampler = sampler
        self._episodes: dict[int, _Episode] = {}

    def begin(self, slot: int, seed: int) -> None:
        self._episodes[slot] = _Episode(seed)

    def act(self, slots: Sequence[int], seen: Sequence[Seen]) -> list[np.ndarray]:
        episodes = [self._episodes[slot] for slot in slots]
        stairs = self._on_stairs(episodes, seen)
        entering = [self.sampler.action_noise(e.seed, e.looks + 1)[-1] for e in episodes]
        done = self.sampler.down_the_stairs(seen, stairs, late=0)
        finished, tokens = advance(done, torch.stack(entering))
        for episode, left in zip(episodes, tokens, strict=True):
            episode.tokens, episode.looks = left, episode.looks + 1
        return list(self.sampler.decode(finished[:, None]))

    def _on_stairs(self, episodes: list[_Episode], seen: Sequence[Seen]) -> list[Tensor]:
        """Each episode's tokens [H, C]. New ones start as noise, and go down to their stairs."""
        new = [i for i, episode in enumerate(episodes) if episode.tokens is None]
        tokens = [self.sampler.action_noise(episodes[i].seed, 0) for i in new]
        for late in range(self.sampler.horizon - 1, 0, -1) if new else ():
            shown = [seen[i] for i in new]
            tokens = list(self.sampler.down_the_stairs(shown, tokens, late))
        started = dict(zip(new, tokens, strict=True))
        return [
            started[i] if episode.tokens is None else episode.tokens
            for i, episode in enumerate(episodes)
        ]
