"""The straight path from data to noise: the time convention of this project.

    t = 1 is pure noise, t = 0 is data.
    x_t = (1 - t) x + t noise                Self-Flow (arXiv 2603.06507), Eq. 1
    velocity = dx_t/dt = noise - x           the target of Eq. 2, the same at every t

Sampling therefore integrates the velocity from t = 1 down to t = 0. All other files refer to this
one; weights with another convention are mapped where they are loaded. Time `t` broadcasts against
tokens [..., N, D]: shape it [..., N, 1].
"""

from typing import Literal

from torch import Tensor

# What the network's output represents. Pixel patches wider than the network are predicted as data:
# noise of hundreds of dimensions cannot pass through fewer channels, clean patches can ("JiT",
# arXiv 2511.13720). The loss is on the velocity either way.
Prediction = Literal["velocity", "data"]

# Converting a data prediction to a velocity divides by t, which is capped from below at this t.
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
    """The network's output at x_t as a velocity: the output itself, or (x_t - x_pred) / max(t,
    t_min)."""
    if prediction == "velocity":
        return output
    return (x_t - output) / t.clamp(min=t_min)


def velocity_target(
    x: Tensor, noise: Tensor, prediction: Prediction, x_t: Tensor, t: Tensor
) -> Tensor:
    """The result of `as_velocity` for a perfect output: the velocity, with the same cap near t
    = 0."""
    if prediction == "velocity":
        return velocity(x, noise)
    return as_velocity(x, prediction, x_t, t)
