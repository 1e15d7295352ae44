"""Integrating the flow from noise (t = 1) to data (t = 0).

State and velocity are dicts of tensors, one entry per modality, so frames and actions are carried
along the same path together.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

from torch import Tensor

State = dict[str, Tensor]
VelocityField = Callable[[State, float], State]
Method = Literal["euler", "heun"]


def _step(x: State, v: State, dt: float) -> State:
    return {name: x[name] + dt * v[name] for name in x}


def solve_ode(field: VelocityField, noise: State, times: Tensor, method: Method = "euler") -> State:
    """Follow dx/dt = field(x, t) along `times` (decreasing, from 1 to 0).

    Euler is first order with one evaluation a step. Heun is second order with two; its last step is
    Euler's, since the second evaluation would be at t = 0.
    """
    x = noise
    for t, t_next in pairwise(times.tolist()):
        v = field(x, t)
        x_next = _step(x, v, t_next - t)
        if method == "heun" and t_next > 0:
            v_next = field(x_next, t_next)
            x_next = _step(x, {k: 0.5 * (v[k] + v_next[k]) for k in v}, t_next - t)
        x = x_next
    return x
