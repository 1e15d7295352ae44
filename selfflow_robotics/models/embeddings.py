"""Embeddings of timesteps, positions and pixel patches."""

import math
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from selfflow_robotics.errors import UserError
from selfflow_robotics.models.modulation import Modulation
from selfflow_robotics.timesteps import Timesteps


class TimestepEmbedder(nn.Module):
    """Sinusoids of a timestep in [0, 1] through a two-layer MLP (256 frequencies, as in DiT).

    The angles are scale * (t - origin) * frequency. DiT embeds timesteps of 0..1000; the default
    scale keeps its frequencies meaningful on [0, 1].
    """

    def __init__(
        self, width: int, frequencies: int = 256, scale: float = 1000.0, origin: float = 0.0
    ) -> None:
        super().__init__()
        self.frequencies, self.scale, self.origin = frequencies, scale, origin
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """t of any shape [...] in [0, 1] -> [..., D]."""
        half = self.frequencies // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angles = self.scale * (t.unsqueeze(-1).float() - self.origin) * freqs
        # Angles need float32 even if the weights are bfloat16.
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(waves.to(next(self.mlp.parameters()).dtype))

    def modulation(self, timesteps: Timesteps, condition: Tensor | None = None) -> Modulation:
        """The conditioning of each distinct timestep; `condition` [1 or G, D] is added to all."""
        cond = self(timesteps.values)
        if condition is not None:
            cond = cond + condition.unsqueeze(1)
        return Modulation(cond, timesteps.index)

    def initialize(self) -> None:
        """DiT's initialization with small weights."""
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)


def check_convention(scale: float, origin: float) -> None:
    """Raise UserError if the scale or origin of timesteps is out of range."""
    if not (0 < scale <= 1e6 and 0 <= origin <= 1):
        raise UserError(
            "model timestep_scale must be in (0, 1e6] and timestep_origin in [0, 1], got "
            f"{scale} and {origin}"
        )


def sincos_positions_2d(width: int, height: int, columns: int) -> Tensor:
    """Fixed 2-D sine-cosine positions [height * columns, width], row by row (MAE, arXiv
    2111.06377)."""
    if width % 4:
        raise ValueError(f"2-D positions need a width divisible by 4, got {width}")
    omega = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
    rows, cols = np.meshgrid(np.arange(height), np.arange(columns), indexing="ij")
    parts = []
    for axis in (cols, rows):
        angles = axis.reshape(-1, 1) * omega
        parts += [np.sin(angles), np.cos(angles)]
    return torch.from_numpy(np.concatenate(parts, axis=1)).float()


class PatchStem(nn.Module):
    """A small convolution network that turns pixel patches into tokens.

    In a clean frame, convolutions see across patch borders, which makes a policy learn much faster
    (docs/log.md). In a noised frame they see single patches, since the dual schedule gives
    neighbouring patches different noise levels.
    """

    def __init__(self, patch: int, channels: int, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.patch, self.channels = patch, channels
        steps = int(math.log2(patch))
        if 2**steps != patch:
            raise ValueError(f"the patch size must be a power of two, got {patch}")
        sizes = [channels, *(width // 2 ** (steps - 1 - i) for i in range(steps))]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(sizes)):
            layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1))
            if i + 1 < steps:
                layers += [nn.GroupNorm(1, after), nn.GELU(approximate="tanh")]
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens: Tensor, whole_frames: bool) -> Tensor:
        """Pixel patches [G, N, patch * patch * channels] of one or more frames -> [G, N, D]."""
        height, width = self.grid if whole_frames else (1, 1)
        pixels = rearrange(
            tokens,
            "g (t h w) (p q c) -> (g t) c (h p) (w q)",
            h=height,
            w=width,
            p=self.patch,
            q=self.patch,
            c=self.channels,
        )
        return rearrange(self.layers(pixels), "(g t) d h w -> g (t h w) d", g=tokens.shape[0])
