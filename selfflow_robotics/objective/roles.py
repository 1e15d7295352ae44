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
    # generate an image
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


def check_loss_weights(weights: Mapping[str, float], roles: Mapping[str, float]) -> None:
    """Raise UserError for an unknown slot, a negative weight, or a row that is played (of weight
    > 0 in `roles`) and would have no loss at all."""
    for slot, weight in weights.items():
        if slot not in SLOTS:
            raise unknown("slot in loss_weights", slot, SLOTS)
        if not 0 <= weight <= MAX_WEIGHT:
            raise UserError(f"loss_weights.{slot} must be from 0 to {MAX_WEIGHT:g}, got {weight}")
    for name in (name for name, weight in roles.items() if weight > 0):
        noised = [slot for slot, part in ROLES[name].items() if part == "noised"]
        if not any(weights.get(slot, 1.0) for slot in noised):
            raise UserError(
                f"the row {name} has no loss: set loss_weights of {' or '.join(noised)} above 0, "
                f"or roles.{name}=0"
            )


BLOCK = 4096  # steps whose rows are drawn together


class RoleSchedule:
    """The row that each training step plays, and which turn of that row it is.

    Both are functions of (weights, seed, step): rows are drawn with the given weights, and turns
    are counted per row from 0, so a rare row goes through its data without gaps like any other.
    """

    def __init__(self, weights: dict[str, float], seed: int) -> None:
        check_weights(weights)
        self._seed = seed
        self._names = [name for name, weight in weights.items() if weight > 0]
        p = np.array([weights[name] for name in self._names])
        self._p = p / p.sum()
        self._before = [np.zeros(len(p), np.int64)]  # turns of each row before each block
        self._block, self._rows = -1, np.empty(0, np.int64)

    def at(self, step: int) -> tuple[str, int]:
        """(row, turn) of a step; a step far ahead costs one pass over the blocks before it."""
        block, offset = divmod(step, BLOCK)
        while len(self._before) <= block:
            turns = np.bincount(self._drawn(len(self._before) - 1), minlength=len(self._names))
            self._before.append(self._before[-1] + turns)
        if block != self._block:
            self._block, self._rows = block, self._drawn(block)
        row = self._rows[offset]
        turn = self._before[block][row] + np.count_nonzero(self._rows[:offset] == row)
        return self._names[row], int(turn)

    def _drawn(self, block: int) -> np.ndarray:
        """The rows of a block's steps, as places in the list of names."""
        generator = numpy_generator("role", self._seed, block)
        return generator.choice(len(self._names), size=BLOCK, p=self._p)
