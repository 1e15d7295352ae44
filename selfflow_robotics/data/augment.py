"""Image augmentation that keeps the actions valid.

Training repeats a few hundred demonstrations many times. Shifts and colour changes keep the network
from memorizing the images.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import draw

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of each augmentation; 0 turns it off. All frames of a window change alike."""

    shift_px: int = 0  # largest shift in each direction; borders are repeated
    brightness: float = 0.0  # colours times 1 +- this
    contrast: float = 0.0  # distance from the mean grey times 1 +- this
    saturation: float = 0.0  # distance from grey times 1 +- this

    def __post_init__(self) -> None:
        if self.shift_px < 0:
            raise UserError(f"augment.shift_px must not be negative, got {self.shift_px}")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"augment.{name} must be in [0, 1), got {getattr(self, name)}")

    @property
    def active(self) -> bool:
        """Whether any augmentation is on."""
        return self != AugmentConfig()


def augment(frames: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Augmented images float32 [B, T, H, W, 3] in [0, 255] of frames uint8 [B, T, H, W, 3]."""
    x = frames.float()
    grey = (x * x.new_tensor(LUMA)).sum(dim=-1, keepdim=True)
    x = grey + _factor(config.saturation, x, generator) * (x - grey)
    mean = x[:, :1].mean(dim=(1, 2, 3, 4), keepdim=True)
    x = mean + _factor(config.contrast, x, generator) * (x - mean)
    x = _factor(config.brightness, x, generator) * x
    return _shift(x.clamp(0, 255), config.shift_px, generator)


def _factor(spread: float, x: Tensor, generator: torch.Generator) -> Tensor:
    """1 +- spread for every window, shaped to multiply x."""
    u = draw(torch.rand, (len(x),), generator)
    return (1 + spread * (2 * u - 1)).view(-1, 1, 1, 1, 1)


def _integers(high: int, *shape: int, **settings: Any) -> Tensor:
    return torch.randint(0, high, shape, **settings)


def _shift(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    if most == 0:
        return x
    batch, count, height, width, _ = x.shape
    by = draw(partial(_integers, 2 * most + 1), (2, batch), generator, dim=1)
    padded = F.pad(rearrange(x, "b t h w c -> b (t c) h w"), [most] * 4, mode="replicate")
    rows = by[0, :, None] + torch.arange(height, device=x.device)
    columns = by[1, :, None] + torch.arange(width, device=x.device)
    which = torch.arange(batch, device=x.device)[:, None, None]
    moved = padded.movedim(1, -1)[which, rows[:, :, None], columns[:, None, :]]
    return rearrange(moved, "b h w (t c) -> b t h w c", t=count)
