"""What every transformer in this project is to the network around it (`models.network`).

A backbone takes hidden tokens, each at its own timestep, and returns hidden tokens. It knows
nothing of frames, actions or words: adapters make its tokens and read its result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from selfflow_robotics.models.modulation import Modulation
from selfflow_robotics.timesteps import Timesteps

WORDS = "words"  # the stream of text tokens

Kept = Any  # keys and values of a context at each block, in whatever form a backbone keeps them


@dataclass(frozen=True)
class Tokens:
    """One sequence of hidden tokens."""

    hidden: Tensor  # [G, N, D]
    places: Tensor  # int64 [N, 3]: (t, h, w); words have none and stand at (0, 0, 0)
    timesteps: Timesteps
    streams: tuple[tuple[str, int], ...]  # (slot or WORDS, number of tokens), in their order
    context: int = 0  # so many at the start are clean: every token sees them

    @classmethod
    def join(cls, parts: Sequence["Tokens"]) -> "Tokens":
        """The tokens of all parts in one sequence."""
        return cls(
            torch.cat([part.hidden for part in parts], dim=1),
            torch.cat([part.places for part in parts]),
            Timesteps.join([part.timesteps for part in parts]),
            tuple(stream for part in parts for stream in part.streams),
            sum(part.context for part in parts),
        )

    @property
    def is_context(self) -> Tensor:
        """Which tokens every token sees, bool [N]."""
        return torch.arange(self.hidden.shape[1], device=self.hidden.device) < self.context

    def repeat(self, draws: int) -> "Tokens":
        """Each sample `draws` times, one after the other."""
        if draws == 1:
            return self
        hidden = self.hidden.repeat_interleave(draws, dim=0)
        return replace(self, hidden=hidden, timesteps=self.timesteps.repeat(draws))


class Backbone(Protocol):
    """A transformer whose tokens each have their own timestep."""

    # "absolute": adapters add positions to the tokens; "rotary": the backbone reads their places.
    positions: Literal["absolute", "rotary"]

    @property
    def width(self) -> int:
        """D of a hidden token."""
        ...

    @property
    def depth(self) -> int:
        """Blocks; a layer is a number of blocks, 0 to depth."""
        ...

    def encode_context(
        self, tokens: Tokens, condition: Tensor | None = None, depth: int | None = None
    ) -> Kept:
        """One pass over clean tokens, which see only one another: what others need to see them.

        `depth`: only the first so many blocks will be asked for; None: all.
        """
        ...

    def modulation(self, timesteps: Timesteps, condition: Tensor | None = None) -> Modulation:
        """The conditioning of each distinct timestep; `condition` [1 or G, D] is added to all."""
        ...

    def modulation_rows(self, mod: Modulation) -> list[Tensor]:
        """What the blocks' modulation layers make of `mod.cond`: the `table` of `forward`."""
        ...

    def __call__(
        self,
        tokens: Tokens,
        kept: Kept | None = None,
        layers: Sequence[int] = (),
        stop: bool = False,
        condition: Tensor | None = None,
        separate_attention: bool = False,
        table: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Modulation, dict[int, Tensor]]:
        """Hidden tokens [G, N, D] after the last block, the modulation that output layers use too,
        and the raw features after so many blocks of `layers`.

        Args:
            tokens: the sequence; G is a multiple of the context's batch.
            kept: a context that all tokens see, from `encode_context`.
            layers: which features to return, 1 to depth.
            stop: compute nothing after the last of `layers`.
            condition: [1 or G, D], added to every embedded timestep (a class label).
            separate_attention: tokens see only those at their own timestep, and what is context.
            table: `modulation_rows` of these timesteps and condition, where known already.
        """
        ...
