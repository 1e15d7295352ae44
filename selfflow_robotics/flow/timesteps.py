"""Training timesteps, p(t), and the times of a sampler (t = 1 is noise)."""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.rng import batch_rows, draw

DISTRIBUTIONS = ("uniform", "logit_normal", "plateau_logit_normal")
LOW_SNR = (0.95, 1.0)  # range of the paper's low-SNR mix for video


# Beyond these limits, t in float32 is almost always 0 or 1, or constant.
MOST_MEAN, STD, SHIFT = 20, (0.01, 100), (1e-3, 1e3)


def check_shift(shift: float, name: str) -> None:
    """Raise UserError for an extreme shift."""
    low, high = SHIFT
    if not low <= shift <= high:
        raise UserError(f"{name} must be in [{low:g}, {high:g}], got {shift}")


def shift_timesteps(t: Tensor, shift: float) -> Tensor:
    """Move t in [0, 1] towards noise, s t / (1 + (s - 1) t) (Eq. 8); shift 1 changes nothing."""
    return shift * t / (1 + (shift - 1) * t)


@dataclass(frozen=True)
class TimestepConfig:
    """p(t), the distribution of training timesteps.

    `uniform` on [0, 1]; `logit_normal`: sigmoid(mean + std z) (Eq. 10); `plateau_logit_normal`: the
    logit-normal density held constant from its mode to t = 1. `shift` moves the first two by Eq. 8,
    which for the logit-normal adds log(shift) to `mean`; the plateau is applied to the shifted
    density, so that it stays flat. A share `low_snr` of the draws comes from U[0.95, 1] instead.
    """

    distribution: str = "uniform"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    low_snr: float = 0.0

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS:
            raise unknown("timestep distribution", self.distribution, DISTRIBUTIONS)
        if not -MOST_MEAN <= self.mean <= MOST_MEAN:
            raise UserError(f"timesteps.mean must be within +-{MOST_MEAN}, got {self.mean}")
        low, high = STD
        if not low <= self.std <= high:
            raise UserError(f"timesteps.std must be in [{low}, {high}], got {self.std}")
        check_shift(self.shift, "timesteps.shift")
        if not 0 <= self.low_snr < 1:
            raise UserError(f"timesteps.low_snr must be in [0, 1), got {self.low_snr}")

    def quantile(self, u: Tensor) -> Tensor:
        """Quantile function of p(t) at u in [0, 1], without the low-SNR mix."""
        if self.distribution == "uniform":
            return shift_timesteps(u, self.shift)
        eps = 1e-6  # keeps the quantile function finite at the ends
        u = u.double().clamp(eps, 1 - eps)
        if self.distribution == "plateau_logit_normal":
            table = _plateau_quantiles(self.mean + math.log(self.shift), self.std, u.device)
            place = u * (len(table) - 1)
            below = place.long().clamp(max=len(table) - 2)
            return torch.lerp(table[below], table[below + 1], place - below).float()
        z = torch.special.ndtri(u)
        return shift_timesteps(torch.sigmoid(self.mean + self.std * z).float(), self.shift)


@functools.cache
def _plateau_quantiles(mean: float, std: float, device: torch.device) -> Tensor:
    """Quantiles, at equal steps of the mass from 0 to 1, of the logit-normal density held constant
    after its mode; a table on the device, so that draws need no synchronization."""
    t = np.linspace(0, 1, 100_001)
    inner = t[1:-1]
    z = (np.log(inner / (1 - inner)) - mean) / std
    density = np.zeros_like(t)
    density[1:-1] = np.exp(-0.5 * z**2) / (inner * (1 - inner))
    mode = int(density.argmax())
    density[mode:] = density[mode]
    if not density.any():
        raise UserError(
            f"timesteps: mean {mean:.4g} (with the shift) and std {std} leave no t in (0, 1); "
            "choose a larger timesteps.std"
        )
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    quantiles = np.interp(np.linspace(0, 1, len(t)), mass / mass[-1], t)
    return torch.from_numpy(quantiles).to(device)


def sample_timesteps(config: TimestepConfig, count: int, generator: torch.Generator) -> Tensor:
    """`count` timesteps in [0, 1], shape [count], each with marginal p(t).

    Draws are stratified: one in each of `count` equal slices of the distribution's mass, in random
    order. Each draw has the marginal p(t), and the batch covers it evenly, which reduces the
    variance of the loss.
    """
    u = draw(torch.rand, (count,), generator)
    strata = draw(torch.randperm, (count,), generator)
    u = (strata + u) / batch_rows(count, generator)
    if config.low_snr == 0:
        return config.quantile(u)
    low, high = LOW_SNR
    from_noise = low + (high - low) * u / config.low_snr
    rest = config.quantile(((u - config.low_snr) / (1 - config.low_snr)).clamp(min=0))
    return torch.where(u < config.low_snr, from_noise, rest)


def sampling_times(num_steps: int, shift: float = 1.0) -> Tensor:
    """The times of a sampler, from 1 (noise) to 0 (data): float32 [num_steps + 1]."""
    if num_steps < 1:
        raise UserError(f"a sampler needs at least one step, got {num_steps}")
    return shift_timesteps(torch.linspace(1, 0, num_steps + 1), shift)
