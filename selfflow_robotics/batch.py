"""The input of a network: named slots of tokens, with text or labels.

Codecs (`modalities`) turn frames and actions into slots and back. The places of a slot give each
token's position in the clip; the network knows nothing else about its shape.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

Words = list[str] | Tensor  # B texts, or their embeddings [B, M, C] from a frozen text encoder


@dataclass(frozen=True)
class Slot:
    """Tokens of one kind, e.g. the patches of a frame or the actions of a chunk."""

    tokens: Tensor  # float [B, N, C]
    places: Tensor  # int64 [N, 3]: (t, h, w) of each token, counted in tokens
    valid: Tensor | None = None  # bool [B, N]; None: all of them count
    view: Tensor | None = None  # [B, N, C']: pixels of the same patches, if `tokens` are latents

    def with_tokens(self, tokens: Tensor) -> "Slot":
        """The same slot with other tokens."""
        return replace(self, tokens=tokens)

    def to(self, dtype: torch.dtype) -> "Slot":
        """The slot with tokens and view converted to `dtype`."""
        view = None if self.view is None else self.view.to(dtype)
        return replace(self, tokens=self.tokens.to(dtype), view=view)

    def repeat(self, draws: int) -> "Slot":
        """Each sample repeated `draws` times in a row: [B draws, N, C]."""
        valid = None if self.valid is None else self.valid.repeat_interleave(draws, dim=0)
        return Slot(self.tokens.repeat_interleave(draws, dim=0), self.places, valid)


@dataclass
class Batch:
    """One batch of samples as tokens."""

    slots: dict[str, Slot]  # keyed by the slot names of `objective.roles`
    words: Words | None = None
    labels: Tensor | None = None  # int64 [B]
    no_words: Tensor | None = None  # [M, C]: embedding of the empty text


def frame_places(grid: tuple[int, int], num_frames: int, first: int = 0) -> Tensor:
    """Places [num_frames h w, 3] of the tokens of whole frames, row by row; t counts from `first`.

    grid: tokens per frame (rows, columns).
    """
    t = torch.arange(first, first + num_frames)
    rows, columns = (torch.arange(side) for side in grid)
    return torch.cartesian_prod(t, rows, columns)


def step_places(num_steps: int, first: int = 0) -> Tensor:
    """Places [num_steps, 3] of tokens along time without a position in a frame; t counts from
    `first`."""
    places = torch.zeros(num_steps, 3, dtype=torch.long)
    places[:, 0] = torch.arange(first, first + num_steps)
    return places
