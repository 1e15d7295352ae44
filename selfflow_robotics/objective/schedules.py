"""Which timestep every token gets in training: a schedule is a function of p(t) and a mask ratio.

`dual` is the paper's own, Dual-Timestep Scheduling (`dual_timestep`). The others are what it is
compared with: `near`, whose two timesteps are never far apart; `full_mask`, in which the masked
tokens are pure noise; `per_token`, in which every token draws for itself (diffusion forcing, arXiv
2407.01392).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from selfflow_robotics.flow.timesteps import TimestepConfig, sample_timesteps
from selfflow_robotics.objective.dual_timestep import draw_dual_timesteps, draw_mask
from selfflow_robotics.timesteps import Timesteps

NEAR = 0.2  # how much cleaner `near`'s second timestep is at most


def draw_full_mask(
    batch: int,
    num_tokens: int,
    mask_ratio: float,
    distribution: TimestepConfig,
    generator: torch.Generator,
    places: Tensor | None = None,
) -> Timesteps:
    """One timestep a sample; the tokens of the mask stand at t = 1."""
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
    """The paper's ablation of the second draw: s = t - U(0, 0.2), cut off at 0."""
    t = sample_timesteps(distribution, batch, generator)
    s = t - NEAR * torch.rand(batch, generator=generator, device=t.device)
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
    """A timestep of its own for every token; there is no mask."""
    values = sample_timesteps(distribution, batch * num_tokens, generator)
    index = torch.arange(num_tokens, device=values.device).expand(batch, -1)
    return Timesteps(values.view(batch, num_tokens), index)


SCHEDULES: dict[str, Callable[..., Timesteps]] = {
    "dual": draw_dual_timesteps,
    "near": draw_near,
    "full_mask": draw_full_mask,
    "per_token": draw_per_token,
}
