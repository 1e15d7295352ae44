"""The keys of the page, and what each does to the robot."""

from collections.abc import Iterable

import numpy as np

from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.robot.actions import ACTION_DIM, GRIPPER

MOVE_M, TURN_RAD = 0.04, 0.15  # a step of one key; experts move up to three times as far
SLOW = 0.25  # with Shift

# Key -> (label on the page, component of the environment action, direction). Displacements are in
# the robot's base frame: x points away from it, y to its left, z up.
MOTIONS: dict[str, tuple[str, int, float]] = {
    "ArrowUp": ("forward", 0, 1.0),
    "ArrowDown": ("back", 0, -1.0),
    "ArrowLeft": ("left", 1, 1.0),
    "ArrowRight": ("right", 1, -1.0),
    "w": ("up", 2, 1.0),
    "s": ("down", 2, -1.0),
    "a": ("turn left", 5, 1.0),
    "d": ("turn right", 5, -1.0),
    "q": ("pitch up", 4, -1.0),
    "e": ("pitch down", 4, 1.0),
    "z": ("roll left", 3, -1.0),
    "c": ("roll right", 3, 1.0),
}
# What the page itself does with the other keys.
OTHERS: dict[str, str] = {
    "Space": "gripper",
    ".": "wait",
    "p": "policy acts",
    "r": "resync",
    "n": "new episode",
    "Shift": "slow",
}


def action_of(keys: Iterable[str], is_closed: bool, is_slow: bool = False) -> np.ndarray:
    """The environment action float32 [7] while `keys` of `MOTIONS` are held; opposite keys cancel.

    `is_closed`: the gripper's command. Raises UserError for an unknown key.
    """
    action = np.zeros(ACTION_DIM, np.float32)
    for key in keys:
        if key not in MOTIONS:
            raise unknown("key", key, MOTIONS)
        _, axis, direction = MOTIONS[key]
        action[axis] += direction * (MOVE_M if axis < 3 else TURN_RAD) * (SLOW if is_slow else 1.0)
    action[GRIPPER] = 1.0 if is_closed else -1.0
    return action


def held_keys(value: object) -> list[str]:
    """`value` from a message as keys, each once. Raises UserError if it is no list of keys."""
    if not isinstance(value, list) or len(value) > len(MOTIONS):
        raise UserError("keys must be a short list of keys")
    for key in value:
        if not isinstance(key, str) or key not in MOTIONS:
            raise unknown("key", str(key)[:20], MOTIONS)
    return sorted(set(value))
