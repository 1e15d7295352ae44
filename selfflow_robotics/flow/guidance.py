"""Classifier-free guidance (arXiv 2207.12598)."""

from selfflow_robotics.flow.solvers import State, VelocityField


def guide(conditional: VelocityField, unconditional: VelocityField, scale: float) -> VelocityField:
    """The field v_uncond + scale (v_cond - v_uncond); with scale = 1 just the conditional one."""
    if scale == 1.0:
        return conditional

    def field(x: State, t: float) -> State:
        v_cond, v_uncond = conditional(x, t), unconditional(x, t)
        return {k: v_uncond[k] + scale * (v_cond[k] - v_uncond[k]) for k in v_cond}

    return field
