"""The autoencoder that needs no weights: frames as pixel patches."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from selfflow_robotics.errors import UserError


@dataclass(frozen=True)
class PixelAutoencoder:
    """Frames <-> tokens, one token a square patch; lossless up to rounding to uint8."""

    image_size: tuple[int, int]  # (height, width) in pixels
    patch: int = 16
    channels: int = 3

    def __post_init__(self) -> None:
        if any(side < self.patch or side % self.patch for side in self.image_size):
            raise UserError(
                f"image size {self.image_size[0]} x {self.image_size[1]} does not divide into "
                f"{self.patch} x {self.patch} patches; change image_size or patch"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (vertically, horizontally)."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch

    @property
    def tokens_per_frame(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def token_channels(self) -> int:
        return self.patch * self.patch * self.channels

    def encode(self, frames: Tensor) -> Tensor:
        """Frames [B, T, H, W, 3], uint8 or float of 0 to 255, as tokens float32
        [B, T * N, patch * patch * 3] in [-1, 1]."""
        if tuple(frames.shape[2:]) != (*self.image_size, self.channels):
            raise UserError(
                f"frames are {tuple(frames.shape[2:])}, the model was made for "
                f"{(*self.image_size, self.channels)}; resize them or train at their size"
            )
        pixels = frames.to(torch.float32) / 127.5 - 1
        return rearrange(
            pixels, "b t (h p) (w q) c -> b (t h w) (p q c)", p=self.patch, q=self.patch
        )

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T * N, patch * patch * 3] -> uint8 [B, T, H, W, 3]."""
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
