"""How a failed episode failed, from the privileged states of its steps.

A kind of failure is a few words, such as "lifted then dropped". It is judged from object poses and
drawer openings, which all simulators report alike (`envs.base`), and not from contacts: an object
that moved by less than `MOVED_M` counts as never moved, even if the gripper touched it.

`Task.failure` names the kind; these are the parts that tasks share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfflow_robotics.envs.tasks.rules import LIFTED_M

MOVED_M = 0.01
FELL_M = 0.15  # below where it stood
DRAWER_MOVED_M = 0.02

NEVER_MOVED = "never moved"
NOT_LIFTED = "moved but not lifted"
DROPPED = "lifted then dropped"
UNFINISHED = "lifted but not finished"
FELL = "fell off"
WRONG_OBJECT = "wrong object"
WRONG_DRAWER = "wrong drawer"
LOST = "reached then lost"
OTHER = "other"

LIFTING = (NEVER_MOVED, NOT_LIFTED, DROPPED, FELL, UNFINISHED)


@dataclass(frozen=True)
class Course:
    """What happened in an episode of T steps; index 0 is its start."""

    poses: np.ndarray  # float64 [T + 1, n, 7]: xyz (m, world), quaternion; the scene's objects
    drawers: np.ndarray | None  # float64 [T + 1, 3]: how far they are open (m); None: no cabinet
    succeeded: bool  # at any step

    @classmethod
    def of(cls, infos: Sequence[dict[str, Any]]) -> "Course":
        """From the `info` of the reset and of each step."""
        states = [info["state"] for info in infos]
        objects = [
            np.reshape([*np.ravel(s.get("object_pose", ())), *np.ravel(s.get("other_poses", ()))],
                       (-1, 7))
            for s in states
        ]  # fmt: skip
        return cls(
            np.array(objects, np.float64),
            np.array([s["drawers"] for s in states]) if "drawers" in states[0] else None,
            any(info["success"] for info in infos[1:]),
        )

    def shifts(self) -> np.ndarray:
        """How far each object is from its start, horizontally (m): float64 [T + 1, n]."""
        offsets = self.poses[:, :, :2] - self.poses[:1, :, :2]
        return np.hypot(offsets[..., 0], offsets[..., 1])

    def rises(self) -> np.ndarray:
        """How far each object is above its start (m): float64 [T + 1, n]."""
        return self.poses[:, :, 2] - self.poses[0, :, 2]


def not_lifted(course: Course, item: int = 0) -> str | None:
    """Why an object is not in the air at the end, one of `LIFTING`; None if it is."""
    shift, rise = course.shifts()[:, item], course.rises()[:, item]
    if rise[-1] > LIFTED_M:
        return None
    if rise[-1] < -FELL_M:
        return FELL
    if rise.max() > LIFTED_M:
        return DROPPED
    return NOT_LIFTED if max(shift.max(), -rise.min()) > MOVED_M else NEVER_MOVED


def wrong_object(course: Course, item: int = 0) -> bool:
    """Whether another object is further from its start at the end than this one."""
    shifts = course.shifts()[-1]
    others = np.delete(shifts, item)
    return bool(len(others)) and others.max() > max(MOVED_M, shifts[item])


def wrong_drawer(course: Course, drawer: int) -> bool:
    """Whether another drawer than this one moved, and further."""
    assert course.drawers is not None
    moved = np.abs(course.drawers - course.drawers[0]).max(axis=0)
    return bool(np.delete(moved, drawer).max() > max(DRAWER_MOVED_M, moved[drawer]))
