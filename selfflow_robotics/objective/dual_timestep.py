"""Dual-Timestep Scheduling: two noise levels in one sample (Self-Flow, section 3.1).

Each sample draws two independent, unsorted timesteps t, s ~ p(t); each token takes s with
probability `mask_ratio` (Bernoulli, not a fixed count), else t (Eq. 4). So each token's timestep
has marginal p(t), exactly as in plain flow matching. The teacher sees all tokens at the cleaner of
the two, min(t, s).
"""

import torch
from torch import Tensor

from selfflow_robotics.flow.timesteps import TimestepConfig, sample_timesteps
from selfflow_robotics.rng import draw
from selfflow_robotics.timesteps import Timesteps


def draw_dual_timesteps(
    batch: int,
    num_tokens: int,
    mask_ratio: float,
    distribution: TimestepConfig,
    generator: torch.Generator,
    places: Tensor | None = None,
) -> Timesteps:
    """The pair (t, s) of each sample, with the mask as index: tau of Eq. 4; `places` as in
    `draw_mask`.

    `mask_ratio` = 0 is plain flow matching: one timestep per sample and the same draws of t.
    """
    t = sample_timesteps(distribution, batch, generator)
    if mask_ratio == 0:
        index = torch.zeros(batch, num_tokens, dtype=torch.long, device=t.device)
        return Timesteps(t[:, None], index)
    s = sample_timesteps(distribution, batch, generator)
    mask = draw_mask(batch, num_tokens, mask_ratio, generator, places)
    return Timesteps(torch.stack([t, s], dim=1), mask)


def draw_mask(
    batch: int,
    num_tokens: int,
    mask_ratio: float,
    generator: torch.Generator,
    places: Tensor | None = None,
) -> Tensor:
    """M of Eq. 4 as int64 [B, N], drawn per token.

    With `places` [N] int64 in [0, N), tokens at the same place share their draw: a patch is masked
    in all frames of a clip or in none (tube masking).
    """
    u = draw(torch.rand, (batch, num_tokens), generator)
    mask = (u < mask_ratio).long()
    return mask if places is None else mask[:, places]
