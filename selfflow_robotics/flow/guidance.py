"""Classifier-free guidance (arXiv 2207.12598), optionally limited to an interval of time, and
extrapolation from an early prediction."""

import math

from selfflow_robotics.errors import UserError
from selfflow_robotics.flow.solvers import State, VelocityField


def check_scale(scale: float) -> None:
    """Raise UserError for a guidance scale that is negative or not finite."""
    if not (math.isfinite(scale) and scale >= 0):
        raise UserError(f"guidance_scale must be at least 0 (1: no guidance), got {scale}")


def check_extrapolation(factor: float) -> None:
    """Raise UserError for an extrapolation that is negative or not finite."""
    if not (math.isfinite(factor) and factor >= 0):
        raise UserError(f"extrapolation must be at least 0 (1: none), got {factor}")


def extrapolate(early: State, final: State, factor: float) -> State:
    """The velocity v_i + factor (v_f - v_i) from those of an early layer, v_i, and of the last one,
    v_f (ReWorld, arXiv 2606.27504, Eq. 11; Internal Guidance, arXiv 2512.24176)."""
    return {k: early[k] + factor * (final[k] - early[k]) for k in final}


def guide(
    conditional: VelocityField,
    unconditional: VelocityField,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
) -> VelocityField:
    """The field v_uncond + scale (v_cond - v_uncond); with scale = 1 only the conditional one.

    Outside `interval` = [low, high], only the conditional field is evaluated (arXiv 2404.07724).
    Times follow `flow.path`: (0, 0.7) leaves the noisiest part unguided.
    """
    check_scale(scale)
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise UserError(
            f"the guidance interval must be 0 <= low <= high <= 1, got {low} and {high}"
        )
    if scale == 1.0:
        return conditional

    def field(x: State, t: float) -> State:
        v_cond = conditional(x, t)
        if not low <= t <= high:
            return v_cond
        v_uncond = unconditional(x, t)
        return {k: v_uncond[k] + scale * (v_cond[k] - v_uncond[k]) for k in v_cond}

    return field
