"""The straight path from data to noise: THE convention of time in this project.

    t = 1 is pure noise, t = 0 is data.
    x_t = (1 - t) x + t noise                Self-Flow (arXiv 2603.06507), Eq. 1
    velocity = dx_t/dt = noise - x           the target of Eq. 2, the same at every t

Sampling therefore integrates the velocity from t = 1 down to t = 0. Every other file refers to this
one; weights that use another convention are mapped where they are loaded, never here.
Time `t` broadcasts against tokens [..., N, D]: shape it [..., N, 1].
"""

from typing import Literal

from torch import Tensor

# What a network's output stands for. Pixel patches wider than the network are predicted as data:
# noise of hundreds of dimensions cannot pass through fewer channels, clean patches can
# ("JiT", arXiv 2511.13720). The loss is taken in velocity either way.
Prediction = Literal["velocity", "data"]

# Turning a data prediction into a velocity divides by t; below this t the division is capped.
T_MIN = 0.05


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point x_t between data `x` and `noise` at time t in [0, 1] (Eq. 1, Eq. 5)."""
    return (1 - t) * x + t * noise


def velocity(x: Tensor, noise: Tensor) -> Tensor:
    """The target dx_t/dt = noise - x (Eq. 2)."""
    return noise - x


def as_velocity(
    output: Tensor, prediction: Prediction, x_t: Tensor, t: Tensor, t_min: float = T_MIN
) -> Tensor:
    """A network's output at x_t as a velocity: itself, or (x_t - x_pred) / max(t, t_min)."""
    if prediction == "velocity":
        return output
    return (x_t - output) / t.clamp(min=t_min)


def velocity_target(
    x: Tensor, noise: Tensor, prediction: Prediction, x_t: Tensor, t: Tensor
) -> Tensor:
    """What `as_velocity` gives for a perfect output: the velocity, capped alike near t = 0."""
    if prediction == "velocity":
        return velocity(x, noise)
    return as_velocity(x, prediction, x_t, t)
