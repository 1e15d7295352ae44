"""The timesteps of a batch of tokens: few distinct values, and an index from tokens to them.

Every token has its own timestep, but a sample has only one or two distinct ones. A network embeds
the values and expands the result to tokens by the index, which costs a third less than embedding
per token. `flow.path` defines t: t = 1 is noise, t = 0 is data.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Timesteps(NamedTuple):
    """Timesteps of G samples with N tokens each."""

    values: Tensor  # float32 [G, V] in [0, 1]: the V distinct timesteps of each sample
    index: Tensor  # int64 [G, N] in [0, V): the timestep of each token

    @property
    def per_token(self) -> Tensor:
        """The timestep of every token, [G, N]."""
        return self.values.gather(1, self.index)

    @property
    def cleanest(self) -> Tensor:
        """The smallest timestep of each sample, [G]."""
        return self.values.amin(dim=1)

    @classmethod
    def constant(cls, t: float | Tensor, like: Tensor) -> "Timesteps":
        """One timestep for all tokens of `like` [G, N, ...]; t is a number or a tensor [G]."""
        groups, num_tokens = like.shape[:2]
        index = torch.zeros(groups, num_tokens, dtype=torch.long, device=like.device)
        if isinstance(t, Tensor):
            return cls(t.to(like.device, torch.float32).expand(groups)[:, None], index)
        # `full` does not synchronize with the device, unlike copying a number to it.
        return cls(torch.full((groups, 1), t, dtype=torch.float32, device=like.device), index)

    @classmethod
    def join(cls, parts: Sequence["Timesteps"]) -> "Timesteps":
        """Concatenate the timesteps of the parts' tokens."""
        index, first = [], 0
        for part in parts:
            index.append(part.index + first)
            first += part.values.shape[1]
        return cls(torch.cat([part.values for part in parts], dim=1), torch.cat(index, dim=1))

    def part(self, start: int, stop: int) -> "Timesteps":
        """The timesteps of the tokens from `start` up to `stop`."""
        return self._replace(index=self.index[:, start:stop])

    def repeat(self, draws: int) -> "Timesteps":
        """Each sample repeated `draws` times in a row: [G draws, ...]."""
        return Timesteps(*(part.repeat_interleave(draws, dim=0) for part in self))
