"""Which timesteps a network is trained on, p(t), and which a sampler visits (t = 1 is noise)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from selfflow_robotics.errors import UserError

DISTRIBUTIONS = ("uniform", "logit_normal")


def shift_timesteps(t: Tensor, shift: float) -> Tensor:
    """Move t in [0, 1] towards noise, s t / (1 + (s - 1) t) (Eq. 8); shift 1 changes nothing."""
    return shift * t / (1 + (shift - 1) * t)


@dataclass(frozen=True)
class TimestepConfig:
    """p(t), the distribution of training timesteps.

    `uniform` on [0, 1], or `logit_normal`: sigmoid(mean + std z) (Eq. 10); then shifted by `shift`.
    """

    distribution: str = "uniform"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS:
            raise UserError(
                f"timestep distribution '{self.distribution}' is unknown; "
                f"choose one of {', '.join(DISTRIBUTIONS)}"
            )
        if not (self.std > 0 and self.shift > 0):
            raise UserError(
                f"timestep std and shift must be positive, got {self.std}, {self.shift}"
            )


def sample_timesteps(config: TimestepConfig, count: int, generator: torch.Generator) -> Tensor:
    """`count` timesteps in [0, 1], shape [count], each with marginal p(t).

    Draws are stratified: one in each of `count` equal slices of the distribution's mass, in random
    order. Every draw keeps the marginal p(t), and the batch covers it evenly, which lowers the
    variance of the loss.
    """
    device = generator.device
    u = torch.rand(count, generator=generator, device=device)
    strata = torch.randperm(count, generator=generator, device=device)
    u = (strata + u) / count
    if config.distribution == "logit_normal":
        eps = 1e-6  # keeps the quantile function finite at the ends
        z = torch.special.ndtri(u.double().clamp(eps, 1 - eps))
        u = torch.sigmoid(config.mean + config.std * z).float()
    return shift_timesteps(u, config.shift)


def sampling_times(num_steps: int, shift: float = 1.0) -> Tensor:
    """The times a sampler visits, from 1 (noise) to 0 (data): float32 [num_steps + 1]."""
    if num_steps < 1:
        raise UserError(f"a sampler needs at least one step, got {num_steps}")
    return shift_timesteps(torch.linspace(1, 0, num_steps + 1), shift)
