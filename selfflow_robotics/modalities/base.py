"""Codecs: the border between the world (frames, actions) and the tokens of a network.

A codec is not part of a network and has nothing to train. Its tokens can as well come from a cache
that it once filled.
"""

from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor

from selfflow_robotics.batch import Slot

FRAMES, ACTIONS = "frames", "actions"  # the names of codecs, and of the adapters of their tokens


class Codec(Protocol):
    """One kind of data <-> tokens."""

    kind: ClassVar[str]  # its name in `modalities.load`
    # What a network should predict of these tokens (`flow.path.Prediction`).
    prediction: ClassVar[Literal["velocity", "data"]]

    @property
    def channels(self) -> int:
        """C of a token."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """The same for codecs that make the same tokens, and for no others; None: not known."""
        ...

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a frame (a latent frame, where several frames become one), or of a step."""
        ...

    @property
    def stride(self) -> int:
        """Frames or steps of the world that a step after the first one stands for."""
        ...

    def places(self, count: int, first: int = 0) -> Tensor:
        """Places int64 [N, 3] of the tokens of `count` (latent) frames or steps, `first` being the
        number of the first one."""
        ...

    def encode(self, raw: Any) -> Tensor:
        """Tokens [B, N, C]."""
        ...

    def decode(self, tokens: Tensor) -> Any:
        """The inverse of `encode`."""
        ...

    def to_json(self) -> dict[str, Any]:
        """All that `modalities.load.codec_from_json` needs to make this codec again."""
        ...


class FrameCodec(Codec, Protocol):
    """Frames uint8 [B, T, H, W, 3] <-> tokens."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the frames in pixels."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens of a frame (vertically, horizontally)."""
        ...

    def view(self, raw: Tensor) -> Tensor | None:
        """The pixels [B, N, C'] that clean tokens are read from too, or None."""
        ...

    def load(self, device: torch.device | str) -> Self:
        """With all that encoding and decoding need. Raises UserError where it is missing."""
        ...


def slot_of(
    name: str, codec: Codec, tokens: Tensor, valid: Tensor | None = None, view: Tensor | None = None
) -> Slot:
    """Tokens [B, N, C] of the slot `name` with their places; later frames begin at time 1."""
    count = tokens.shape[1] // codec.tokens_per_step
    places = codec.places(count, first=1 if name == "later_frames" else 0)
    return Slot(tokens, places.to(tokens.device, non_blocking=True), valid, view)


def first_frame(codec: FrameCodec, frames: Tensor) -> Slot:
    """The slot of the current frames, uint8 [B, H, W, 3]."""
    raw = frames[:, None]
    return slot_of("first_frame", codec, codec.encode(raw), view=codec.view(raw))
