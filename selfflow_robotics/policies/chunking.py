"""Execute the first actions of a chunk, then observe again: open loop, receding horizon, and
real-time chunking."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.flow.inpainting import soft_mask
from selfflow_robotics.policies.chunk_sampler import ChunkSampler, Seen


@dataclass
class _Episode:
    seed: int
    looks: int = 0  # observations so far
    chunk: Tensor | None = None  # tokens [H, C] from the last one


class Chunking:
    """Each observation gives a chunk a_0 ... a_(H-1), of which `steps` are executed.

    With a `delay` of d, the robot executes the first d from the previous chunk, which planned the
    same steps. `inpaints`: real-time chunking (RTC, arXiv 2506.07339), where the new chunk is drawn
    towards the previous one: fully for those d actions, less and less for later ones.
    """

    def __init__(
        self, sampler: ChunkSampler, steps: int, delay: int = 0, inpaints: bool = False
    ) -> None:
        """Raises UserError if a chunk is too short for this."""
        horizon = sampler.horizon
        if not 1 <= steps <= horizon:
            raise UserError(f"replan_steps must be 1 to {horizon} (the chunk), got {steps}")
        if delay > horizon // 2:
            raise UserError(
                f"delay={delay} is too long for chunks of {horizon} actions; it must be at most "
                f"{horizon // 2}"
            )
        if delay > min(steps, horizon - steps):
            raise UserError(
                f"delay={delay} needs replan_steps from {delay} to {horizon - delay}, as chunks "
                f"have {horizon} actions; got {steps}"
            )
        if inpaints and steps == horizon:
            raise UserError(
                f"execution=rtc continues the last chunk, so replan_steps must be below {horizon} "
                "(the chunk)"
            )
        self.sampler, self.steps, self.delay = sampler, steps, delay
        self._weights = soft_mask(horizon, delay, horizon - steps) if inpaints else None
        self._episodes: dict[int, _Episode] = {}

    def begin(self, slot: int, seed: int) -> None:
        self._episodes[slot] = _Episode(seed)

    def act(self, slots: Sequence[int], seen: Sequence[Seen]) -> list[np.ndarray]:
        episodes = [self._episodes[slot] for slot in slots]
        chunks = self._chunks(episodes, seen)
        executed = []
        for episode, chunk in zip(episodes, chunks, strict=True):
            planned = chunk[: self.steps]
            if episode.chunk is not None and self.delay:
                decided = episode.chunk[self.steps : self.steps + self.delay]
                planned = torch.cat([decided, planned[self.delay :]])
            executed.append(planned)
            episode.chunk, episode.looks = chunk, episode.looks + 1
        return list(self.sampler.decode(torch.stack(executed)))

    def _chunks(self, episodes: list[_Episode], seen: Sequence[Seen]) -> list[Tensor]:
        """The new chunk of each episode. First chunks have nothing to continue."""
        found: dict[int, Tensor] = {}
        continues = [self._weights is not None and e.chunk is not None for e in episodes]
        for group in (False, True):
            numbers = [i for i, continued in enumerate(continues) if continued == group]
            if not numbers:
                continue
            chunks = self.sampler.chunks(
                [seen[i] for i in numbers],
                [self.sampler.noise(episodes[i].seed, episodes[i].looks) for i in numbers],
                [self._rest(episodes[i]) for i in numbers] if group else None,
                self._weights if group else None,
            )
            found.update(zip(numbers, chunks, strict=True))
        return [found[i] for i in range(len(episodes))]

    def _rest(self, episode: _Episode) -> Tensor:
        """What the last chunk plans for the steps of the next one, then zeros: [H, C]."""
        assert episode.chunk is not None
        rest = torch.zeros_like(episode.chunk)
        rest[: len(rest) - self.steps] = episode.chunk[self.steps :]
        return rest
