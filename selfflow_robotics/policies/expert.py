"""A scripted expert that carries out a task's plan, using privileged state (`info["state"]`), no
images.

It uses the same actions as every policy and runs in each simulator, since all share SIMPLER's
kinematics and response. To pick: lower the open gripper onto the object through a funnel, close,
lift; start over if the object is not in the gripper. To place: carry it, lower it through the same
funnel, open, go up. All directions are in the world frame until
the last line: z is up, -x points away from the robot.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from selfflow_robotics.envs.episodes import EpisodeSpec, drawn
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.envs.tasks.plan import Pick, Place, Skill
from selfflow_robotics.robot.rotations import from_wxyz

# The wrist cannot point straight down over most of the table, and from 40 degrees on, a finger hits
# the table before it passes a can lying across.
APPROACH_TILT_RAD = math.radians(32)
# The funnel: stay this high until the gripper is directly above the object.
HOVER_M = 0.09
FUNNEL_INNER_M, FUNNEL_WIDTH_M = 0.015, 0.06
LIES_BELOW_COSINE = 0.5  # between the object's long axis and up
LIFT_M, LIFT_STEP_MAX_M = 0.12, 0.08
# The arm executes about a third of a command per step, so commands exceed the error. But not by
# much: near the end of its reach, the arm does not move at all towards a point out of reach.
TRANSLATION_GAIN, TRANSLATION_MAX_M, OVERSHOOT_MAX_M = 1.6, 0.16, 0.03
ROTATION_GAIN, ROTATION_MAX_RAD = 1.2, 0.6
GRASP_WITHIN_M = 0.013
LOST_BEYOND_M = 0.04
CLOSING_STEPS = 5
LIFTED_WITHIN_M = 0.03  # when the next skill begins
DROP_M = 0.01  # above where it would rest, an object is let go
PLACE_WITHIN_M, PLACE_WITHIN_HEIGHT_M = 0.02, 0.012
OPENING_STEPS = 4
OPEN_BELOW = 0.2  # closedness at which the fingers pass on either side of the object

OPEN, CLOSE = -1.0, 1.0


@dataclass
class Progress:
    """How far the expert is in an episode."""

    plan: tuple[Skill, ...]
    done: int = 0  # skills of the plan
    closing_steps: int = 0  # 0 while approaching
    opening_steps: int = 0
    lift_to_m: float = 0.0  # of the tool
    rest_m: float = 0.0  # height of the object when it was grasped


class ScriptedExpert:
    """Carries out the plan of the episode's task from info["state"]; chunks of one action."""

    name = "expert"
    privileged = True
    looks = False

    def __init__(self) -> None:
        self._progress: dict[int, Progress] = {}

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        """Reset the state of the slot."""
        self._progress[slot] = Progress(plan_of(episode))

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None,
    ) -> list[np.ndarray]:
        """One action for each slot. Raises ValueError without `infos`."""
        if infos is None:
            raise ValueError("the scripted expert needs `infos`")
        return [
            decide(self._progress[slot], info["state"])[None]
            for slot, info in zip(slots, infos, strict=True)
        ]


def plan_of(episode: EpisodeSpec) -> tuple[Skill, ...]:
    """The plan of the episode's task."""
    task = get_task(episode.task)
    return task.plan(drawn(task, episode))


def decide(progress: Progress, state: dict[str, Any]) -> np.ndarray:
    """The action float32 [7] for a state; updates `progress`."""
    skill = progress.plan[progress.done]
    if isinstance(skill, Place):
        move, turn, gripper = _place(progress, skill, state)
    else:
        move, turn, gripper = _pick(progress, skill, state)
    in_base = from_wxyz(state["base_pose"][3:]).inv().apply([move, turn])
    return np.append(in_base, gripper).astype(np.float32)


def _pick(
    progress: Progress, skill: Pick, state: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Translation (m), rotation vector (rad) and gripper action."""
    tool, pose = state["tool_pose"], item_pose(state, skill.item)
    offset = _aim(pose, skill.lying_aim_below_m) - tool[:3]
    distance = math.hypot(*offset)
    if progress.closing_steps and distance > LOST_BEYOND_M:
        progress.closing_steps = 0
    if progress.closing_steps or (distance < GRASP_WITHIN_M and state["gripper"] < OPEN_BELOW):
        if not progress.closing_steps:
            progress.lift_to_m, progress.rest_m = tool[2] + LIFT_M, float(pose[2])
        progress.closing_steps += 1
        rise = progress.lift_to_m - tool[2] if progress.closing_steps > CLOSING_STEPS else 0.0
        is_lifted = progress.closing_steps > CLOSING_STEPS and rise < LIFTED_WITHIN_M
        if is_lifted and progress.done + 1 < len(progress.plan):
            progress.done += 1
        return _upwards(rise), np.zeros(3), CLOSE
    hover = 1.0 if state["gripper"] > OPEN_BELOW else _hover(offset)
    move = _towards(offset + np.array([0.0, 0.0, HOVER_M * hover]))
    turn = _turn_to_grasp(tool[3:], pose[3:])
    return move, _limit(ROTATION_GAIN * turn, ROTATION_MAX_RAD), OPEN


def _place(
    progress: Progress, skill: Place, state: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, float]:
    """As `_pick`."""
    tool, pose, other = state["tool_pose"], item_pose(state, skill.item), item_pose(state, skill.to)
    if not progress.opening_steps and math.hypot(*(pose[:3] - tool[:3])) > LOST_BEYOND_M:
        progress.done, progress.closing_steps = progress.done - 1, 0
        return np.zeros(3), np.zeros(3), OPEN
    away = pose[:2] - other[:2]
    goal = other[:2] + away * (skill.distance_m / max(math.hypot(*away), 1e-9))
    height = progress.rest_m + skill.higher_m + DROP_M
    offset = np.append(goal, height) - pose[:3]
    is_there = math.hypot(*offset[:2]) < PLACE_WITHIN_M and -offset[2] < PLACE_WITHIN_HEIGHT_M
    if progress.opening_steps or is_there:
        progress.opening_steps += 1
        rise = progress.lift_to_m - tool[2] if progress.opening_steps > OPENING_STEPS else 0.0
        return _upwards(rise), np.zeros(3), OPEN
    move = _towards(offset + np.array([0.0, 0.0, HOVER_M * _hover(offset)]))
    return move, np.zeros(3), CLOSE


def _upwards(rise: float) -> np.ndarray:
    """The commanded translation to go `rise` up (m), never down."""
    return np.array([0.0, 0.0, np.clip(TRANSLATION_GAIN * rise, 0.0, LIFT_STEP_MAX_M)])


def _hover(offset: np.ndarray) -> float:
    """How much of HOVER_M to stay above a point at `offset` [3] (m): the funnel."""
    lateral = math.hypot(*offset[:2])
    return float(np.clip((lateral - FUNNEL_INNER_M) / FUNNEL_WIDTH_M, 0.0, 1.0))


def _towards(error: np.ndarray) -> np.ndarray:
    """The commanded translation for a position error [3] (m)."""
    most = min(TRANSLATION_MAX_M, math.hypot(*error) + OVERSHOOT_MAX_M)
    return _limit(TRANSLATION_GAIN * error, most)


def item_pose(state: dict[str, Any], item: int) -> np.ndarray:
    """The pose [7] of an object, numbered as in the task's scene."""
    return state["object_pose"] if item == 0 else state["other_poses"][item - 1]


def _y_axis(rotation: Rotation) -> np.ndarray:
    """The y axis of a rotation [3]: an object's long axis, and the axis along which the fingers
    close."""
    return rotation.apply([0.0, 1.0, 0.0])


def _aim(object_pose: np.ndarray, lying_below_m: float) -> np.ndarray:
    """Target position of the gripper's centre for an object with this pose."""
    lies = abs(_y_axis(from_wxyz(object_pose[3:]))[2]) < LIES_BELOW_COSINE
    return object_pose[:3] - np.array([0.0, 0.0, lying_below_m if lies else 0.0])


def _turn_to_grasp(tool: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation vector (world) from the tool's rotation (wxyz) to the nearer of the two grasps."""
    current = from_wxyz(tool)
    approach = np.array([-math.sin(APPROACH_TILT_RAD), 0.0, -math.cos(APPROACH_TILT_RAD)])
    closing = np.cross(_y_axis(from_wxyz(target)), approach)  # across the object
    closing /= math.hypot(*closing)
    if np.sum(closing * _y_axis(current)) < 0:
        closing = -closing
    goal = np.stack([np.cross(closing, approach), closing, approach], axis=1)
    return (Rotation.from_matrix(goal) * current.inv()).as_rotvec()


def _limit(vector: np.ndarray, longest: float) -> np.ndarray:
    return vector * min(1.0, longest / max(math.hypot(*vector), 1e-9))
