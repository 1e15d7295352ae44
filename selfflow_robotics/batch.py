"""The input of a network: named slots of tokens, with text or labels.

Codecs (`modalities`) turn frames and actions into slots and back. The places of a slot give each
token's position in the clip; the network knows nothing else about its shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selfflow_robotics.errors import UserError

Words = list[str] | Tensor  # B texts, or their embeddings [B, M, C] from a frozen text encoder


@dataclass(frozen=True)
class Slot:
    """Tokens of one kind, e.g. the patches of a frame or the actions of a chunk.

    Raises UserError if shapes or types differ from those below.
    """

    tokens: Tensor  # float [B, N, C]
    places: Tensor  # int64 [N, 3]: (t, h, w) of each token, counted in tokens
    valid: Tensor | None = None  # bool [B, N]; None: all of them count
    view: Tensor | None = None  # [B, N, C']: pixels of the same patches, if `tokens` are latents

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3:
            raise UserError(f"tokens must be [B, N, C], got {tuple(self.tokens.shape)}")
        samples, count, _ = self.tokens.shape
        wanted = {"places": (self.places, (count, 3), torch.long)}
        if self.valid is not None:
            wanted["valid"] = (self.valid, (samples, count), torch.bool)
        for name, (given, shape, dtype) in wanted.items():
            if tuple(given.shape) != shape or given.dtype != dtype:
                raise UserError(
                    f"{name} of tokens {tuple(self.tokens.shape)} must be {shape} of {dtype}, got "
                    f"{tuple(given.shape)} of {given.dtype}"
                )
        if self.view is not None and self.view.shape[:2] != (samples, count):
            raise UserError(
                f"the view of tokens {tuple(self.tokens.shape)} must have as many samples and "
                f"tokens, got {tuple(self.view.shape)}"
            )

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
    """One batch of samples as tokens. Raises UserError if their numbers differ."""

    slots: dict[str, Slot]  # keyed by the slot names of `objective.roles`
    words: Words | None = None
    labels: Tensor | None = None  # int64 [B]
    no_words: Tensor | None = None  # [M, C]: embedding of the empty text

    def __post_init__(self) -> None:
        check_samples(self.slots, self.words, self.labels)


def check_samples(
    slots: Mapping[str, Slot], words: Words | None = None, labels: Tensor | None = None
) -> None:
    """Raise UserError unless all have the same number of samples."""
    counts = {name: len(slot.tokens) for name, slot in slots.items()}
    counts |= {k: len(x) for k, x in (("words", words), ("labels", labels)) if x is not None}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UserError(f"the numbers of samples differ: {told}")


def finite_tokens(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """The tokens [B, N, C], with 0 in place of NaN and infinity in those that are not `valid`
    (bool [B, N]): attention and gradients would spread them to the others."""
    if valid is None:
        return tokens
    return torch.where(valid[..., None] | tokens.isfinite(), tokens, 0.0)


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
