"""Inpaint actions that are already decided: the guidance of real-time chunking (RTC).

Sampling is steered towards known values of some tokens (arXiv 2506.07339). It needs no training:
the gradient of the distance between them and the network's current guess of the clean tokens is
added to the velocity (pseudo-inverse guidance, arXiv 2310.04432).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from selfflow_robotics.flow.solvers import State, VelocityField

MOST_GUIDANCE = 5.0  # beta of RTC: larger ones make few solver steps unstable


class Inpainting(NamedTuple):
    """What some tokens should be."""

    target: State  # tokens [B, N, C] of slots; anything where the weight is 0
    weights: State  # [B, N, 1] in [0, 1]; 1: must be as in the target, 0: free


def soft_mask(horizon: int, frozen: int, overlap: int) -> Tensor:
    """Weights of a new chunk's actions, float32 [horizon] (RTC, Eq. 5).

    The previous chunk has planned the first `overlap` of them. The first `frozen` are executed
    while the new chunk is computed, so their weight is 1; those after them are still open, with
    weights that decay to 0.
    """
    left = (overlap - torch.arange(horizon)) / (overlap - frozen + 1)
    weights = left.clamp(0, 1)
    weights = weights * torch.expm1(weights) / torch.expm1(torch.ones(()))
    return torch.where(torch.arange(horizon) < frozen, 1.0, weights)


def inpaint(
    field: VelocityField, known: Inpainting, most_guidance: float = MOST_GUIDANCE
) -> VelocityField:
    """`field`, steered towards `known` (RTC, Eq. 2 to 4, in the convention of `flow.path`).

    Each evaluation also needs the gradient of `field`: a backward pass.
    """

    def guided(x_t: State, t: float) -> State:
        slots = list(known.target)
        with torch.enable_grad():
            x_t = {slot: x.detach().requires_grad_(slot in slots) for slot, x in x_t.items()}
            v = field(x_t, t)
            guesses = [x_t[slot] - t * v[slot] for slot in slots]  # of the clean tokens
        errors = [
            known.weights[slot] * (known.target[slot] - guess.detach())
            for slot, guess in zip(slots, guesses, strict=True)
        ]
        pulls = torch.autograd.grad(guesses, [x_t[slot] for slot in slots], errors)
        scale = min(most_guidance, guidance(t))
        steered = {slot: v[slot] - scale * pull for slot, pull in zip(slots, pulls, strict=True)}
        return {slot: x.detach() for slot, x in {**v, **steered}.items()}

    return guided


def guidance(t: float) -> float:
    """RTC's weight of the correction, (1 - tau) / (tau r^2) with tau = 1 - t and r^2 = t^2 / (t^2 +
    (1 - t)^2); infinite at t = 1."""
    return ((1 - t) ** 2 + t**2) / (t * (1 - t)) if 0 < t < 1 else float("inf")
