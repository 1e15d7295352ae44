"""Integrate the flow from noise (t = 1) to data (t = 0).

State and velocity are dicts of tensors, one entry per slot, so frames and actions are integrated
together.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from selfflow_robotics.errors import UserError

MAX_STEPS = 10_000  # far beyond any benefit
State = dict[str, Tensor]
VelocityField = Callable[[State, float], State]
Method = Literal["euler", "heun", "midpoint", "multistep"]
METHODS: tuple[Method, ...] = get_args(Method)


def check_num_steps(num_steps: int, least: int = 1) -> None:
    """Raise UserError for a number of solver steps that is too small or absurdly large."""
    if num_steps < least:
        raise UserError(f"num_steps must be at least {least}, got {num_steps}")
    if num_steps > MAX_STEPS:
        raise UserError(f"num_steps must be at most {MAX_STEPS}, got {num_steps}")


def step(x: State, v: State, dt: float) -> State:
    """x + dt v, entry by entry."""
    return {name: x[name] + dt * v[name] for name in x}


def solve_ode(field: VelocityField, noise: State, times: Tensor, method: Method = "euler") -> State:
    """Integrate dx/dt = field(x, t) along `times` (decreasing, from 1 to 0).

    Euler is first order with one evaluation per step. Heun is second order with two; its last step
    is an Euler step, since the second evaluation would be at t = 0. Midpoint is second order with
    two as well. Multistep is third order with one.
    """
    if method == "multistep":
        return _solve_multistep(field, noise, times)
    x = noise
    for t, t_next in pairwise(times.tolist()):
        v = field(x, t)
        if method == "midpoint":
            v = field(step(x, v, (t_next - t) / 2), (t + t_next) / 2)
        x_next = step(x, v, t_next - t)
        if method == "heun" and t_next > 0:
            v_next = field(x_next, t_next)
            x_next = step(x, _combine([0.5, 0.5], [v, v_next]), t_next - t)
        x = x_next
    return x


def evaluation_times(times: Tensor, method: str) -> list[float]:
    """The times at which a solver evaluates the field, each once."""
    grid = times.tolist()
    if method != "midpoint":
        return grid[:-1]  # no solver evaluates at the end
    return [t for now, after in pairwise(grid) for t in (now, (now + after) / 2)]


def _solve_multistep(field: VelocityField, noise: State, times: Tensor) -> State:
    """Third-order Adams-Bashforth on any grid, with one evaluation per step.

    Evaluating the network costs far more than storing past velocities, and the field is never
    evaluated at t = 0. The first step is Heun's and the second is of second order: their local
    errors are of third order and occur once, which preserves the overall order. By the same
    argument, the velocity after Heun's Euler predictor is used as that of the step's end.
    """
    grid = times.tolist()
    x, past = noise, [field(noise, grid[0])]
    for i, (t, t_next) in enumerate(pairwise(grid)):
        if i > 1:  # the second step starts from the first one's predicted velocity
            past = [*past[-2:], field(x, t)]
        if i == 0 and t_next > 0:
            past.append(field(step(x, past[0], t_next - t), t_next))
            weights = [0.5, 0.5]
        else:
            weights = _adams_bashforth(grid[i + 1 - len(past) : i + 1], t_next)
        x = step(x, _combine(weights, past), t_next - t)
    return x


def _adams_bashforth(past: list[float], t_next: float) -> list[float]:
    """Weights of the velocities at times `past` for the mean velocity up to `t_next`.

    The mean, over the step from past[-1] to t_next, of the polynomial through those velocities.
    """
    nodes = (np.array(past) - past[-1]) / (t_next - past[-1])  # the step is [0, 1]
    powers = np.arange(len(past))
    return np.linalg.solve(nodes ** powers[:, None], 1 / (1 + powers)).tolist()


def _combine(weights: list[float], states: list[State]) -> State:
    """The weighted sum of `states`, entry by entry."""
    total = {name: weights[0] * v for name, v in states[0].items()}
    for weight, state in zip(weights[1:], states[1:], strict=True):
        total = step(total, state, weight)
    return total
