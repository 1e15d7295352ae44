"""The one idea of this project as a table: a question is nothing but which tokens are clean.

A Self-Flow network gives every token its own timestep. So the same network generates, predicts,
acts and explains, depending on which parts of a sample it is shown clean, which it must denoise,
and which are left out. Training draws rows by configured weights; inference names a row.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.rng import numpy_generator

Part = Literal["clean", "noised", "absent"]
SLOTS = ("first_frame", "later_frames", "actions")  # the order of tokens in a sequence


@dataclass(frozen=True)
class Role:
    """What happens to each slot of a sample. The instruction is always clean."""

    first_frame: Part
    later_frames: Part
    actions: Part


ROLES = {
    #                            first frame  later frames  actions
    "image":            Role("noised",    "absent",     "absent"),  # generate a picture
    "clip":             Role("noised",    "noised",     "absent"),  # generate a short video
    "video":            Role("clean",     "noised",     "absent"),  # what may happen next
    "world_model":      Role("clean",     "noised",     "clean"),   # what will these actions do
    "policy":           Role("clean",     "absent",     "noised"),  # what should I do
    "joint":            Role("clean",     "noised",     "noised"),  # the paper's robot experiment
    "inverse_dynamics": Role("clean",     "clean",      "noised"),  # which actions did this
}  # fmt: skip


def arrange(role: Role, sample: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a sample's slots (tokens [B, N, D] each) into (clean, noised), dropping the absent."""
    clean = {slot: sample[slot] for slot in SLOTS if getattr(role, slot) == "clean"}
    noised = {slot: sample[slot] for slot in SLOTS if getattr(role, slot) == "noised"}
    return clean, noised


MAX_WEIGHT = 1e6  # weights are relative; beyond this their sum may overflow or drown the others


def check_weights(weights: dict[str, float]) -> None:
    """Raise UserError for an unknown row, a negative weight, or no positive weight at all."""
    for name, weight in weights.items():
        if name not in ROLES:
            raise unknown("role", name, ROLES)
        if not 0 <= weight <= MAX_WEIGHT:
            raise UserError(
                f"the weight of role '{name}' must be finite, >= 0 and <= {MAX_WEIGHT:g}, "
                f"got {weight}"
            )
    if not any(weights.values()):
        raise UserError("no role has a positive weight; set one, for example roles.policy=1")


def draw_role(weights: dict[str, float], seed: int, step: int) -> str:
    """The row that a training step plays: a function of (seed, step), with the given weights."""
    check_weights(weights)
    names = [name for name, weight in weights.items() if weight > 0]
    p = np.array([weights[name] for name in names])
    return names[numpy_generator(seed, step, 1).choice(len(names), p=p / p.sum())]
