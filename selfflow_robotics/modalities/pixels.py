"""Frames as pixel patches, which need no autoencoder."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor

from selfflow_robotics.batch import frame_places
from selfflow_robotics.errors import UserError


@dataclass(frozen=True)
class PixelPatches:
    """Frames uint8 <-> tokens, one per square patch; lossless up to rounding to uint8.

    A patch may have more values than the network's width, so it is predicted as data.
    """

    kind: ClassVar[str] = "pixels"
    prediction: ClassVar[Literal["velocity", "data"]] = "data"

    image_size: tuple[int, int]  # (height, width) in pixels
    patch: int = 16

    def __post_init__(self) -> None:
        if any(side < self.patch or side % self.patch for side in self.image_size):
            raise UserError(
                f"image size {self.image_size[0]} x {self.image_size[1]} does not divide into "
                f"{self.patch} x {self.patch} patches; change image_size or patch"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per frame (rows, columns)."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch

    @property
    def tokens_per_step(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def channels(self) -> int:
        return self.patch * self.patch * 3

    @property
    def fingerprint(self) -> str:
        return f"pixels {self.image_size[0]}x{self.image_size[1]}/{self.patch}"

    @property
    def stride(self) -> int:
        return 1

    def places(self, count: int, first: int = 0) -> Tensor:
        return frame_places(self.grid, count, first)

    def encode(self, raw: Tensor) -> Tensor:
        """Frames [B, T, H, W, 3], uint8 or float in [0, 255] -> tokens float32 [B, T N, C] in
        [-1, 1]."""
        if tuple(raw.shape[2:]) != (*self.image_size, 3):
            raise UserError(
                f"frames are {tuple(raw.shape[2:])}, the model was made for "
                f"{(*self.image_size, 3)}; resize them or train at their size"
            )
        pixels = raw.to(torch.float32) / 127.5 - 1
        return rearrange(
            pixels, "b t (h p) (w q) c -> b (t h w) (p q c)", p=self.patch, q=self.patch
        )

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T N, C] -> uint8 [B, T, H, W, 3]."""
        height, width = self.grid
        pixels = rearrange(
            tokens.float(),
            "b (t h w) (p q c) -> b t (h p) (w q) c",
            h=height,
            w=width,
            p=self.patch,
            q=self.patch,
        )
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    def view(self, raw: Tensor) -> None:
        """None: the tokens already are pixels."""
        return None

    def load(self, device: torch.device | str) -> "PixelPatches":
        """This codec; there is nothing to load."""
        return self

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "PixelPatches":
        return cls(tuple(record["image_size"]), record["patch"])
