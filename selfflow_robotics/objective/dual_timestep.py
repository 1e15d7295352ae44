"""Dual-Timestep Scheduling: two noise levels in one sample (Self-Flow, section 3.1).

Per sample two timesteps t, s ~ p(t) are drawn, independent and never sorted; each token takes s
with probability `mask_ratio` (Bernoulli, not a fixed count), else t (Eq. 4). So every token's own
timestep has marginal p(t), exactly as in plain flow matching. The teacher sees all tokens at the
cleaner of the two, min(t, s).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from selfflow_robotics.flow.timesteps import TimestepConfig, sample_timesteps


class DualTimesteps(NamedTuple):
    """Timesteps of a batch as `(values, index)`: few distinct values, and which token has which."""

    values: Tensor  # [B, 2] the pair (t, s) of each sample; [B, 1] where no token is masked
    index: Tensor  # [B, N] int64: 1 where the token takes s (the mask M), else 0

    @property
    def per_token(self) -> Tensor:
        """tau of Eq. 4, shape [B, N]."""
        return self.values.gather(1, self.index)

    @property
    def teacher(self) -> Tensor:
        """min(t, s), shape [B]."""
        return self.values.amin(dim=1)


def draw_dual_timesteps(
    batch: int,
    num_tokens: int,
    mask_ratio: float,
    distribution: TimestepConfig,
    generator: torch.Generator,
) -> DualTimesteps:
    """Draw the two timesteps and the mask of every sample.

    `mask_ratio` = 0 is plain flow matching: one timestep a sample and the same draws of t.
    """
    t = sample_timesteps(distribution, batch, generator)
    if mask_ratio == 0:
        index = torch.zeros(batch, num_tokens, dtype=torch.long, device=t.device)
        return DualTimesteps(t[:, None], index)
    s = sample_timesteps(distribution, batch, generator)
    u = torch.rand(batch, num_tokens, generator=generator, device=t.device)
    return DualTimesteps(torch.stack([t, s], dim=1), (u < mask_ratio).long())
