"""Codecs convert data (frames, actions, sounds) to the tokens of a network and back.

A codec is not part of the network and is not trained, so its tokens can also come from a cache.
"""

from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor

from selfflow_robotics.batch import Slot

# The names of codecs, and of the adapters of their tokens.
FRAMES, ACTIONS, SOUND = "frames", "actions", "sound"
PICTURES = "pictures"  # images beside clips, with an adapter of their own


class Codec(Protocol):
    """One kind of data <-> tokens."""

    kind: ClassVar[str]  # its name in `modalities.load`
    # What a network predicts for these tokens (`flow.path.Prediction`).
    prediction: ClassVar[Literal["velocity", "data"]]

    @property
    def channels(self) -> int:
        """C of a token."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """Equal for codecs that produce the same tokens, and only for these; None: unknown."""
        ...

    @property
    def tokens_per_step(self) -> int:
        """Tokens per frame (per latent frame, for video autoencoders), action or sound latent."""
        ...

    @property
    def stride(self) -> int:
        """Frames per latent frame after the first one; 1 for everything but video autoencoders."""
        ...

    def places(self, count: int, first: int = 0) -> Tensor:
        """Places int64 [N, 3] of the tokens of `count` (latent) frames, actions or sound latents; t
        counts from `first`."""
        ...

    def encode(self, raw: Any) -> Tensor:
        """Tokens [B, N, C]."""
        ...

    def decode(self, tokens: Tensor) -> Any:
        """The inverse of `encode`."""
        ...

    def to_json(self) -> dict[str, Any]:
        """A JSON-compatible dict, for `modalities.load.codec_from_json`."""
        ...


class FrameCodec(Codec, Protocol):
    """Frames uint8 [B, T, H, W, 3] <-> tokens."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the frames in pixels."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per frame (rows, columns)."""
        ...

    def view(self, raw: Tensor) -> Tensor | None:
        """Pixels [B, N, C'] that the network also reads for clean tokens; None: only tokens."""
        ...

    def load(self, device: torch.device | str) -> Self:
        """A copy that can encode and decode. Raises UserError if its autoencoder is missing."""
        ...


def slot_of(
    name: str, codec: Codec, tokens: Tensor, valid: Tensor | None = None, view: Tensor | None = None
) -> Slot:
    """The slot `name` with tokens [B, N, C] and their places; later frames begin at time 1."""
    count = tokens.shape[1] // codec.tokens_per_step
    places = codec.places(count, first=1 if name == "later_frames" else 0)
    return Slot(tokens, places.to(tokens.device, non_blocking=True), valid, view)


def first_frame(codec: FrameCodec, frames: Tensor) -> Slot:
    """The slot first_frame with the encoded current frames, uint8 [B, H, W, 3]."""
    raw = frames[:, None]
    return slot_of("first_frame", codec, codec.encode(raw), view=codec.view(raw))
