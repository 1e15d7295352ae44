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
