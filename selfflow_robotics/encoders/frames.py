"""Resize images for an encoder, and its features to a token grid."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def resize_frames(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames uint8 [B, H, W, 3] -> float32 [B, 3, h, w] in [0, 255]; bicubic, antialiased."""
    pixels = rearrange(frames.float(), "b h w c -> b c h w")
    if pixels.shape[2:] == size:
        return pixels
    return F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 255)


def pool_features(features: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Features [B, h w, D] on `grid` (h, w) -> float32 [B, h' w', D] on the grid `wanted`.

    Downsampling averages areas, upsampling is bilinear.
    """
    if grid == wanted:
        return features.float()
    planes = rearrange(features.float(), "b (h w) d -> b d h w", h=grid[0])
    if wanted[0] <= grid[0] and wanted[1] <= grid[1]:
        planes = F.adaptive_avg_pool2d(planes, wanted)
    else:
        planes = F.interpolate(planes, wanted, mode="bilinear", antialias=True)
    return rearrange(planes, "b d h w -> b (h w) d")
