"""What the scripted expert's skills share: its progress, and commands that the arm can follow.

All directions are in the world frame: z is up, -x points away from the robot.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from selfflow_robotics.envs.tasks.plan import Skill
from selfflow_robotics.robot.rotations import from_wxyz

# The arm executes about a third of a command per step, so commands exceed the error, but not by
# much: the arm does not move at all towards a point out of its reach.
TRANSLATION_GAIN, TRANSLATION_MAX_M, OVERSHOOT_MAX_M = 1.6, 0.16, 0.03
ROTATION_GAIN, ROTATION_MAX_RAD = 1.2, 0.6
OPEN_BELOW = 0.2  # closedness below which the fingers fit around the object

OPEN, CLOSE = -1.0, 1.0


@dataclass
class Progress:
    """How far the expert is in an episode."""

    plan: tuple[Skill, ...]
    done: int = 0  # completed skills of the plan
    closing_steps: int = 0  # 0 while approaching
    opening_steps: int = 0
    lift_to_m: float = 0.0  # of the tool
    rest_m: float = 0.0  # the object's z when it was grasped
    near_steps: int = 0  # consecutive steps near the edge of a drawer
    pushing_steps: int = 0  # 0 while approaching
    hold_m: np.ndarray | None = None  # tool position at the grasp [3]
    elapsed_steps: int = 0  # of the episode
    last_tool: np.ndarray | None = None  # tool pose one step ago [7]

    @property
    def is_last(self) -> bool:
        """Whether the current skill is the plan's last, which never ends."""
        return self.done + 1 == len(self.plan)


class Command(NamedTuple):
    """What a skill asks for: world translation [3] (m), rotation vector [3] (rad), gripper."""

    move: np.ndarray
    turn: np.ndarray
    gripper: float


def item_pose(state: dict[str, Any], item: int) -> np.ndarray:
    """The pose [7] of an object, numbered as in the task's scene."""
    return state["object_pose"] if item == 0 else state["other_poses"][item - 1]


def towards(error: np.ndarray, most_m: float = TRANSLATION_MAX_M) -> np.ndarray:
    """The commanded translation, at most `most_m`, for a position error [3] (m)."""
    most = min(most_m, math.hypot(*error) + OVERSHOOT_MAX_M)
    return limit(TRANSLATION_GAIN * error, most)


def turn_by(error: np.ndarray) -> np.ndarray:
    """The commanded rotation for a rotation error [3] (rad)."""
    return limit(ROTATION_GAIN * error, ROTATION_MAX_RAD)


def turn_to(tool: np.ndarray, approach: np.ndarray, closing: np.ndarray) -> np.ndarray:
    """Rotation vector (world) that turns the tool (wxyz): its z along `approach`, its y along
    `closing` or against it, whichever is nearer."""
    current = from_wxyz(tool)
    if np.sum(closing * y_axis(current)) < 0:
        closing = -closing
    goal = np.stack([np.cross(closing, approach), closing, approach], axis=1)
    return (Rotation.from_matrix(goal) * current.inv()).as_rotvec()


def funnel(offset: np.ndarray, inner_m: float, width_m: float) -> float:
    """Share of the hover height to stay above a point at `offset` [3] (m): 0 within `inner_m` of
    it horizontally, 1 from `width_m` further out."""
    lateral = math.hypot(*offset[:2])
    return float(np.clip((lateral - inner_m) / width_m, 0.0, 1.0))


def x_axis(rotation: Rotation) -> np.ndarray:
    """The x axis of a rotation [3]: the long axis of some objects."""
    return rotation.apply([1.0, 0.0, 0.0])


def y_axis(rotation: Rotation) -> np.ndarray:
    """The y axis of a rotation [3]: most objects' long axis, and the axis along which the fingers
    close."""
    return rotation.apply([0.0, 1.0, 0.0])


def limit(vector: np.ndarray, longest: float) -> np.ndarray:
    """The vector, shortened to `longest` if it is longer."""
    return vector * min(1.0, longest / max(math.hypot(*vector), 1e-9))
