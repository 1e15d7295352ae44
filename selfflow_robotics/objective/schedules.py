"""Timestep schedules: how training draws each token's timestep, given p(t) and a mask ratio.

`dual` is the paper's Dual-Timestep Scheduling (`dual_timestep`). The others are comparisons: in
`near` the two timesteps are close, in `full_mask` the masked tokens are pure noise, and in
`per_token` every token draws its own (diffusion forcing, arXiv 2407.01392). `staircase` is for
policies that stream actions (`policies.execution`): each token is noisier than the one before.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from selfflow_robotics.flow.timesteps import TimestepConfig, sample_timesteps
from selfflow_robotics.objective.dual_timestep import draw_dual_timesteps, draw_mask
from selfflow_robotics.rng import draw
from selfflow_robotics.timesteps import Timesteps

NEAR = 0.2  # largest difference between `near`'s timesteps


def draw_full_mask(
    batch: int,
    num_tokens: int,
    mask_ratio: float,
    distribution: TimestepConfig,
    generator: torch.Generator,
    places: Tensor | None = None,
) -> Timesteps:
    """One timestep per sample; masked tokens are at t = 1."""
    t = sample_timesteps(distribution, batch, generator)
    mask = draw_mask(batch, num_tokens, mask_ratio, generator, places)
    return Timesteps(torch.stack([t, torch.ones_like(t)], dim=1), mask)


def draw_near(
    batch: int,
    num_tokens: int,
    mask_ratio: float,
    distribution: TimestepConfig,
    generator: torch.Generator,
    places: Tensor | None = None,
) -> Timesteps:
    """The paper's ablation of the second draw: s = t - U(0, 0.2), clipped at 0."""
    t = sample_timesteps(distribution, batch, generator)
    s = t - NEAR * draw(torch.rand, (batch,), generator)
    mask = draw_mask(batch, num_tokens, mask_ratio, generator, places)
    return Timesteps(torch.stack([t, s.clamp(min=0)], dim=1), mask)


def draw_per_token(
    batch: int,
    num_tokens: int,
    mask_ratio: float,
    distribution: TimestepConfig,
    generator: torch.Generator,
    places: Tensor | None = None,
) -> Timesteps:
    """A separate timestep for every token, without a mask."""
    values = sample_timesteps(distribution, batch * num_tokens, generator)
    index = torch.arange(num_tokens, device=values.device).expand(batch, -1)
    return Timesteps(values.view(batch, num_tokens), index)


def draw_staircase(
    batch: int,
    num_tokens: int,
    mask_ratio: float,
    distribution: TimestepConfig,
    generator: torch.Generator,
    places: Tensor | None = None,
) -> Timesteps:
    """Token i of N at min(1, t + i / N), without a mask.

    A stream's tokens are at t = 1/N, 2/N, ..., 1 (`flow.staircase`), and at larger t while it
    starts.
    """
    t = sample_timesteps(distribution, batch, generator)
    index = torch.arange(num_tokens, device=t.device).expand(batch, -1)
    return Timesteps((t[:, None] + index / num_tokens).clamp(max=1), index)


SCHEDULES: dict[str, Callable[..., Timesteps]] = {
    "dual": draw_dual_timesteps,
    "near": draw_near,
    "full_mask": draw_full_mask,
    "per_token": draw_per_token,
    "staircase": draw_staircase,
}
