"""Weights with NaN or infinity: one would spread to everything that is computed from them."""

from collections.abc import Mapping

from torch import Tensor

from selfflow_robotics.errors import UserError


def check_finite(weights: Mapping[str, Tensor], origin: str) -> None:
    """Raise UserError naming a floating-point tensor that is not finite; `origin` says whose."""
    for name, weight in weights.items():
        if weight.is_meta or not weight.is_floating_point():
            continue
        if not weight.float().isfinite().all():
            raise UserError(f"{origin} are not finite: {name} has NaN or infinity; get them again")
