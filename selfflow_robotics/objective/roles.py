"""The one idea of this project as a table: a question is nothing but which tokens are clean.

A Self-Flow network gives every token its own timestep. So the same network generates, predicts,
acts and explains, depending on which slots of a sample it is shown clean, which it must denoise,
and which are left out. The instruction is always clean. Training draws rows by configured weights;
inference names a row.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.rng import numpy_generator

Part = Literal["clean", "noised"]
FRAME_SLOTS = ("first_frame", "later_frames")
SLOTS = (*FRAME_SLOTS, "actions")  # the order of tokens in a sequence


Role = Mapping[str, Part]  # of each slot; a slot that is not named is absent

ROLES: dict[str, Role] = {
    # generate a picture
    "image": {"first_frame": "noised"},
    # generate a short video
    "clip": {"first_frame": "noised", "later_frames": "noised"},
    # what may happen next
    "video": {"first_frame": "clean", "later_frames": "noised"},
    # what will these actions do
    "world_model": {"first_frame": "clean", "later_frames": "noised", "actions": "clean"},
    # what should I do
    "policy": {"first_frame": "clean", "actions": "noised"},
    # the paper's robot experiment
    "joint": {"first_frame": "clean", "later_frames": "noised", "actions": "noised"},
    # which actions did this
    "inverse_dynamics": {"first_frame": "clean", "later_frames": "clean", "actions": "noised"},
}


def arrange(role: Role, slots: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a sample's slots into (clean, noised), dropping the absent; in the order of `SLOTS`."""
    clean, noised = (
        {slot: slots[slot] for slot in SLOTS if role.get(slot) == part}
        for part in ("clean", "noised")
    )
    return clean, noised


def denoises_frames(role: Role) -> bool:
    """Whether frames are among what is denoised."""
    return any(role.get(slot) == "noised" for slot in FRAME_SLOTS)


def check_weights(weights: dict[str, float]) -> None:
    """Raise UserError for an unknown row, a negative weight, or no positive weight at all."""
    for name, weight in weights.items():
        if name not in ROLES:
            raise unknown("role", name, ROLES)
        if not (np.isfinite(weight) and weight >= 0):
            raise UserError(f"the weight of role '{name}' must be finite and >= 0, got {weight}")
    if not any(weights.values()):
        raise UserError("no role has a positive weight; set one, for example roles.policy=1")


def check_loss_weights(weights: Mapping[str, float], roles: Mapping[str, float]) -> None:
    """Raise UserError for an unknown slot, a negative weight, or a row that is played (of weight
    > 0 in `roles`) and would have no loss at all."""
    for slot, weight in weights.items():
        if slot not in SLOTS:
            raise unknown("slot in loss_weights", slot, SLOTS)
        if not (np.isfinite(weight) and weight >= 0):
            raise UserError(f"loss_weights.{slot} must be finite and >= 0, got {weight}")
    for name in (name for name, weight in roles.items() if weight > 0):
        noised = [slot for slot, part in ROLES[name].items() if part == "noised"]
        if not any(weights.get(slot, 1.0) for slot in noised):
            raise UserError(
                f"the row {name} has no loss: set loss_weights of {' or '.join(noised)} above 0, "
                f"or roles.{name}=0"
            )


def draw_role(weights: dict[str, float], seed: int, step: int) -> str:
    """The row that a training step plays: a function of (seed, step), with the given weights."""
    check_weights(weights)
    names = [name for name, weight in weights.items() if weight > 0]
    p = np.array([weights[name] for name in names])
    return names[numpy_generator(seed, step, 1).choice(len(names), p=p / p.sum())]
