"""SDE sampling with the same marginals as the flow (SiT, arXiv 2401.08740).

On the path of `flow.path`, the velocity v determines the noise in x_t, noise = x_t + (1 - t) v, and
so the score -noise / t. For every diffusion coefficient w(t) >= 0, the equation towards data (t
decreasing)

    dx = (-v + w(t) score) dt + sqrt(2 w(t)) dW

has the flow's marginals. With w(t) = t, the choice of SiT and of the paper's ImageNet results, the
drift is -(v + noise), which is finite everywhere, including t = 0 and t = 1.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.flow.solvers import State, VelocityField, step
from selfflow_robotics.flow.timesteps import shift_timesteps

# Standard normal draws for a state, entry by entry.
Draw = Callable[[State], State]

LAST_STEP = 0.04


def sde_times(num_steps: int, shift: float = 1.0) -> Tensor:
    """The times of `solve_sde`, from 1 to LAST_STEP and then 0: float32 [num_steps + 1].

    Without a shift they are equally spaced except for the last step; a shift keeps the last step's
    size.
    """
    if num_steps < 2:
        raise UserError(f"the SDE sampler needs at least 2 steps, got {num_steps}")
    end = shift_timesteps(torch.tensor(LAST_STEP, dtype=torch.float64), 1 / shift).item()
    steps = shift_timesteps(torch.linspace(1, end, num_steps), shift)
    return torch.cat([steps, steps.new_zeros(1)])


def solve_sde(field: VelocityField, noise: State, times: Tensor, draw: Draw) -> State:
    """Integrate the SDE of `field` along `times` (decreasing, from 1 to 0).

    Euler-Maruyama with one evaluation and one draw per step; the last step takes the mean without
    noise, so that no fresh noise remains in the data.
    """
    x = noise
    *steps, last = pairwise(times.tolist())
    for t, t_next in steps:
        spread = math.sqrt(2 * t * (t - t_next))
        mean, normal = _mean(field, x, t, t_next), draw(x)
        x = {name: mean[name] + spread * normal[name] for name in x}
    return _mean(field, x, *last)


def _mean(field: VelocityField, x: State, t: float, t_next: float) -> State:
    """A step with the drift only; dt in the module's equation is t - t_next."""
    v = field(x, t)
    toward_noise = {name: v[name] + (x[name] + (1 - t) * v[name]) for name in x}
    return step(x, toward_noise, t_next - t)
