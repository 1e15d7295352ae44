"""Success rules: what they see, and those that several tasks share. No simulator is needed.

Source: ManiSkill2_real2sim envs/custom_scenes/grasp_single_in_scene.py (evaluate) and
agents/robots/googlerobot.py (check_grasp).
"""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

LIFTED_M = 0.01  # above the settled height, touching nothing but the robot
LIFTED_SIGNIFICANTLY_M = 0.02
SIGNIFICANT_STEPS = 5  # after so many steps lifted significantly, in total, success is permanent
CONSECUTIVE_GRASP_STEPS = 5
MIN_IMPULSE = 1e-6  # N s; less does not count as contact
MAX_GRASP_ANGLE_DEG = 80.0  # between the impulse on a finger and its opening direction


@dataclass(frozen=True)
class Touch:
    """The contacts of an object in one physics step."""

    others: frozenset[str]  # bodies in contact with it above MIN_IMPULSE, except the robot's
    # per finger side: (impulse on the finger part [3] in N s, opening direction of that part [3])
    fingers: tuple[tuple[tuple[np.ndarray, np.ndarray], ...], ...]


@dataclass(frozen=True)
class Seen:
    """What a rule sees after a control step; objects in the order of the task's scene."""

    poses: np.ndarray  # float64 [n, 7]: xyz (m, world), quaternion wxyz
    touches: tuple[Touch, ...]
    drawers: np.ndarray | None = None  # float64 [3]: how far each is open (m), top first

    def height(self, item: int) -> float:
        """The object's z (m)."""
        return float(self.poses[item][2])


class Rule(Protocol):
    """Judges one episode, step by step."""

    stage: int  # index of the current instruction in `Task.instructions`

    def update(self, seen: Seen) -> dict[str, Any]:
        """After a control step: `success` (bool) and further entries of the step's info."""
        ...


def is_grasped(touch: Touch, max_angle_deg: float = MAX_GRASP_ANGLE_DEG) -> bool:
    """Whether both fingers press the object, each within the angle of its opening direction."""
    for side in touch.fingers:
        impulses = [math.hypot(*impulse) for impulse, _ in side]
        if not side or max(impulses) < MIN_IMPULSE:
            return False
        cosines = [
            float(np.sum(impulse * opening)) / size
            for (impulse, opening), size in zip(side, impulses, strict=True)
            if size > 0
        ]
        if max(cosines) < math.cos(math.radians(max_angle_deg)):
            return False
    return True


PICK_FLAGS = ("is_grasped", "consecutive_grasp", "lifted_object", "lifted_object_significantly")


@dataclass
class PickRule:
    """SIMPLER's rule for lifting the first object."""

    settled_height: float  # z of the object at rest, m
    stage: int = 0
    lifted: bool = False
    grasp_steps: int = 0
    stats: dict = field(
        default_factory=lambda: {"n_lift_significant": 0, "consec_grasp": False, "grasped": False}
    )

    def update(self, seen: Seen) -> dict[str, Any]:
        """After a control step: SIMPLER's info fields."""
        touch = seen.touches[0]
        grasped = is_grasped(touch)
        self.grasp_steps = self.grasp_steps + 1 if grasped else 0
        rise = seen.height(0) - self.settled_height
        # Without a grasp the flag is reset, and the second condition may set it again.
        self.lifted = (self.lifted and grasped) or (not touch.others and rise > LIFTED_M)
        significantly = self.lifted and rise > LIFTED_SIGNIFICANTLY_M
        consecutive = self.grasp_steps >= CONSECUTIVE_GRASP_STEPS
        self.stats["n_lift_significant"] += int(significantly)
        self.stats["consec_grasp"] |= consecutive
        self.stats["grasped"] |= grasped
        return {
            "is_grasped": grasped,
            "consecutive_grasp": consecutive,
            "lifted_object": self.lifted,
            "lifted_object_significantly": significantly,
            "success": self.lifted or self.stats["n_lift_significant"] >= SIGNIFICANT_STEPS,
            "episode_stats": dict(self.stats),
        }
