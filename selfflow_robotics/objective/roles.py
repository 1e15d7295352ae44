"""The role table: a role is defined by which tokens are clean.

A Self-Flow network gives every token its own timestep. So the same network is an image generator, a
world model, a policy, an inverse dynamics model or a source of sounds, depending on which slots are
clean, which it denoises and which are absent. The instruction is always clean. Training draws roles
with configured weights; inference names a role.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.rng import numpy_generator

Part = Literal["clean", "noised"]
FRAME_SLOTS = ("first_frame", "later_frames")
SLOTS = (*FRAME_SLOTS, "actions")  # order of tokens in a sequence; others come after them


Role = Mapping[str, Part]  # for each slot; slots that are not listed are absent

# The roles of a robot's data.
ROBOT_ROLES: dict[str, Role] = {
    # generate an image
    "image": {"first_frame": "noised"},
    # generate a short video
    "clip": {"first_frame": "noised", "later_frames": "noised"},
    # predict what may happen next
    "video": {"first_frame": "clean", "later_frames": "noised"},
    # world model: what will these actions do?
    "world_model": {"first_frame": "clean", "later_frames": "noised", "actions": "clean"},
    # policy: which action to take?
    "policy": {"first_frame": "clean", "actions": "noised"},
    # the paper's robot experiment
    "joint": {"first_frame": "clean", "later_frames": "noised", "actions": "noised"},
    # inverse dynamics: which actions caused this?
    "inverse_dynamics": {"first_frame": "clean", "later_frames": "clean", "actions": "noised"},
}


ROLES: dict[str, Role] = {
    **ROBOT_ROLES,
    # generate an image with input and output layers of its own, beside clips
    "picture": {"picture": "noised"},
    # generate a sound
    "sound": {"sound": "noised"},
    # generate a short video and its sound
    "film": {"first_frame": "noised", "later_frames": "noised", "sound": "noised"},
    # the paper's joint video and audio: continue a frame as a video with sound
    "film_from_frame": {"first_frame": "clean", "later_frames": "noised", "sound": "noised"},
    # which sound belongs to this video?
    "soundtrack": {"first_frame": "clean", "later_frames": "clean", "sound": "noised"},
}

# The roles that each modality of pretrain/media.py may play. Images have their own layers there.
MEDIA_ROLES = {
    "images": ("picture",),
    "clips": ("clip", "video"),
    "sounds": ("sound",),
    "films": ("film", "film_from_frame", "soundtrack"),
}


def modality_of(role: str) -> str:
    """The modality of pretrain/media.py that plays a role. Raises UserError for other roles."""
    for modality, roles in MEDIA_ROLES.items():
        if role in roles:
            return modality
    raise unknown("role", role, [name for roles in MEDIA_ROLES.values() for name in roles])


def arrange(role: Role, slots: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a sample's slots into (clean, noised), in the order of `SLOTS`, without absent ones.

    Raises UserError if the role needs a slot that is not in `slots`, or denoises none.
    """
    order = [*(slot for slot in SLOTS if slot in role), *(s for s in role if s not in SLOTS)]
    for slot in order:
        if slot not in slots:
            raise unknown("slot of this batch", slot, slots)
    clean, noised = (
        {slot: slots[slot] for slot in order if role[slot] == part} for part in ("clean", "noised")
    )
    if not noised:
        raise UserError("the role denoises no slot, so there is nothing to learn")
    return clean, noised


def denoises_frames(role: Role) -> bool:
    """Whether the role denoises frames."""
    return any(role.get(slot) == "noised" for slot in FRAME_SLOTS)


MAX_WEIGHT = 1e6  # weights are relative; above this, their sum may overflow or hide the others


def check_weights(weights: dict[str, float]) -> None:
    """Raise UserError for an unknown role, a negative weight, or no positive weight at all."""
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
    """Raise UserError for a slot or role that robot data do not have, a negative weight, or an
    active role (weight > 0 in `roles`) without any loss."""
    for name in roles:
        if name not in ROBOT_ROLES:
            raise unknown("role", name, ROBOT_ROLES)
    for slot, weight in weights.items():
        if slot not in SLOTS:
            raise unknown("slot in loss_weights", slot, SLOTS)
        if not 0 <= weight <= MAX_WEIGHT:
            raise UserError(f"loss_weights.{slot} must be from 0 to {MAX_WEIGHT:g}, got {weight}")
    for name in (name for name, weight in roles.items() if weight > 0):
        noised = [slot for slot, part in ROLES[name].items() if part == "noised"]
        if not any(weights.get(slot, 1.0) for slot in noised):
            raise UserError(
                f"the role {name} has no loss: set loss_weights of {' or '.join(noised)} above 0, "
                f"or roles.{name}=0"
            )


BLOCK = 4096  # steps whose roles are drawn together


class RoleSchedule:
    """The role of each training step, and the count of its earlier turns.

    Both are functions of (weights, seed, step): roles are drawn with the given weights, and turns
    are counted per role from 0, so a rare role also covers its data without gaps.
    """

    def __init__(self, weights: dict[str, float], seed: int) -> None:
        check_weights(weights)
        self._seed = seed
        self._names = [name for name, weight in weights.items() if weight > 0]
        p = np.array([weights[name] for name in self._names])
        self._p = p / p.sum()
        self._before = [np.zeros(len(p), np.int64)]  # turns of each role before each block
        self._block, self._rows = -1, np.empty(0, np.int64)

    def at(self, step: int) -> tuple[str, int]:
        """(role, turn) of a step; a step far ahead costs one pass over the earlier blocks."""
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
        """The roles of a block's steps, as indices into the list of names."""
        generator = numpy_generator("role", self._seed, block)
        return generator.choice(len(self._names), size=BLOCK, p=self._p)
