"""The interface between backbones and the network around them (`models.network`).

A backbone maps hidden tokens, each with its own timestep, to hidden tokens. It is independent of
frames, actions and words: adapters embed its tokens and read its output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from selfflow_robotics.models.modulation import Modulation
from selfflow_robotics.timesteps import Timesteps

WORDS = "words"  # the stream of text tokens

Kept = Any  # keys and values of a context at each block, in the backbone's own format


@dataclass(frozen=True)
class Tokens:
    """One sequence of hidden tokens."""

    hidden: Tensor  # [G, N, D]
    places: Tensor  # int64 [N, 3]: (t, h, w); (0, 0, 0) for words
    timesteps: Timesteps
    streams: tuple[tuple[str, int], ...]  # (slot or WORDS, number of tokens), in their order
    context: int = 0  # number of leading clean tokens, which all tokens see
    # bool [N, M + N]: which of a kept context's M tokens and of its own each token sees; None: all.
    visible: Tensor | None = None

    @classmethod
    def join(cls, parts: Sequence["Tokens"]) -> "Tokens":
        """Concatenate the tokens of all parts."""
        return cls(
            torch.cat([part.hidden for part in parts], dim=1),
            torch.cat([part.places for part in parts]),
            Timesteps.join([part.timesteps for part in parts]),
            tuple(stream for part in parts for stream in part.streams),
            sum(part.context for part in parts),
        )

    @property
    def is_context(self) -> Tensor:
        """Mask of the tokens that all tokens see, bool [N]."""
        return torch.arange(self.hidden.shape[1], device=self.hidden.device) < self.context

    def repeat(self, draws: int) -> "Tokens":
        """Each sample repeated `draws` times in a row."""
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
        """Number of blocks; layers are numbered 0 to depth."""
        ...

    def encode_context(
        self, tokens: Tokens, condition: Tensor | None = None, depth: int | None = None
    ) -> Kept:
        """Keys and values of clean tokens, which only attend to each other.

        `depth`: number of blocks that will be needed; None: all.
        """
        ...

    def modulation(self, timesteps: Timesteps, condition: Tensor | None = None) -> Modulation:
        """The conditioning of each distinct timestep; `condition` [1 or G, D] is added to all."""
        ...

    def modulation_rows(self, mod: Modulation) -> list[Tensor]:
        """Output of the blocks' modulation layers for `mod.cond`: the `table` of `forward`."""
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
        """Hidden tokens [G, N, D] after the last block, the modulation (also for output layers),
        and the raw features after each of `layers`.

        Args:
            tokens: the sequence; G is a multiple of the context's batch.
            kept: a context from `encode_context`, seen by all tokens.
            layers: numbers of the layers whose features to return, 1 to depth.
            stop: stop after the last of `layers`.
            condition: [1 or G, D], added to every embedded timestep (a class label).
            separate_attention: tokens see only those at their own timestep, and the context.
            table: `modulation_rows` of these timesteps and condition, if already computed.
        """
        ...
