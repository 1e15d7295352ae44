"""How the scripted expert picks and places objects with the google robot.

Pick: lower the open gripper onto the object through a funnel, close, lift; start over if the object
is not in the gripper. Place: carry the object, lower it through the same funnel, open, move up.
Putting it into a drawer is the same from higher up. The funnel keeps the gripper above the goal
until it is aligned horizontally.
"""

import math
from typing import Any

import numpy as np

from selfflow_robotics.envs.tasks import cabinet
from selfflow_robotics.envs.tasks.plan import Hover, Pick, Place, PutInto
from selfflow_robotics.policies.motion import (
    CLOSE,
    OPEN,
    OPEN_BELOW,
    TRANSLATION_GAIN,
    Command,
    Progress,
    funnel,
    item_pose,
    towards,
    turn_by,
    turn_to,
    x_axis,
    y_axis,
)
from selfflow_robotics.robot.rotations import from_wxyz

# The wrist cannot point straight down over most of the table; at 40 degrees or more, a finger hits
# the table before it passes a horizontal can.
APPROACH_TILT_RAD = math.radians(32)
FLAT_TILT_RAD = math.radians(16)  # at 20 degrees or more, spoons are missed
# The funnel: stay this high until the gripper is directly above the object.
HOVER_M = 0.09
FUNNEL_M = (0.015, 0.06)  # see `funnel`
LIES_BELOW_COSINE = 0.5  # between the object's long axis and up
LIFT_M, LIFT_STEP_MAX_M = 0.12, 0.08
GRASP_WITHIN_M = 0.013
LOST_BEYOND_M = 0.04
CLOSING_STEPS = 5
LIFTED_WITHIN_M = 0.03  # when the next skill begins
DROP_M = 0.01  # an object is let go this far above where it would rest
PLACE_WITHIN_M, PLACE_WITHIN_HEIGHT_M = 0.02, 0.012
OPENING_STEPS = 4
# Where the gripper opens above a drawer, relative to the middle of its front's upper edge: between
# front and cabinet, with room for the fingers.
INTO_DRAWER_M = np.array([-0.10, 0.0, 0.105])
_UP = np.array([0.0, 0.0, 1.0])


def pick(progress: Progress, skill: Pick, state: dict[str, Any]) -> Command:
    """The command in this state; updates `progress`."""
    tool, pose = state["tool_pose"], item_pose(state, skill.item)
    offset = _aim(pose, skill) - tool[:3]
    distance = math.hypot(*offset)
    if progress.closing_steps and distance > LOST_BEYOND_M:
        progress.closing_steps = 0
    if progress.closing_steps or (distance < GRASP_WITHIN_M and state["gripper"] < OPEN_BELOW):
        if not progress.closing_steps:
            progress.lift_to_m, progress.rest_m = tool[2] + LIFT_M, float(pose[2])
        progress.closing_steps += 1
        rise = progress.lift_to_m - tool[2] if progress.closing_steps > CLOSING_STEPS else 0.0
        is_lifted = progress.closing_steps > CLOSING_STEPS and rise < LIFTED_WITHIN_M
        if is_lifted and not progress.is_last:
            progress.done += 1
        return Command(_upwards(rise), np.zeros(3), CLOSE)
    share = 1.0 if state["gripper"] > OPEN_BELOW else funnel(offset, *FUNNEL_M)
    move = towards(offset + np.array([0.0, 0.0, HOVER_M * share]))
    tilt = FLAT_TILT_RAD if skill.is_flat else APPROACH_TILT_RAD
    turn = _turn_to_grasp(tool[3:], _long_axis(pose, skill), tilt)
    return Command(move, turn_by(turn), OPEN)


def place(progress: Progress, skill: Place, state: dict[str, Any]) -> Command:
    """The command in this state; updates `progress`."""
    tool, pose, other = state["tool_pose"], item_pose(state, skill.item), item_pose(state, skill.to)
    if not progress.opening_steps and math.hypot(*(pose[:3] - tool[:3])) > LOST_BEYOND_M:
        progress.done, progress.closing_steps = progress.done - 1, 0
        return Command(np.zeros(3), np.zeros(3), OPEN)
    away = pose[:2] - other[:2]
    goal = other[:2] + away * (skill.distance_m / max(math.hypot(*away), 1e-9))
    height = progress.rest_m + skill.higher_m + DROP_M
    return _lower_and_let_go(progress, tool, np.append(goal, height) - pose[:3])


def put_into(progress: Progress, skill: PutInto, state: dict[str, Any]) -> Command:
    """The command in this state; updates `progress`."""
    tool, pose = state["tool_pose"], item_pose(state, skill.item)
    is_on_top = pose[2] > cabinet.SURFACE  # an object in the drawer is also far from the gripper
    if is_on_top and math.hypot(*(pose[:3] - tool[:3])) > LOST_BEYOND_M:
        progress.done -= 1
        progress.closing_steps = progress.opening_steps = 0
        return Command(np.zeros(3), np.zeros(3), OPEN)
    opening = float(state["drawers"][skill.drawer])
    goal = cabinet.upper_edge(skill.drawer, opening) + INTO_DRAWER_M
    return _lower_and_let_go(progress, tool, goal - tool[:3])


def _lower_and_let_go(progress: Progress, tool: np.ndarray, offset: np.ndarray) -> Command:
    """Carry the grasped object by `offset` [3] (m) through the funnel, open, and move up."""
    is_there = math.hypot(*offset[:2]) < PLACE_WITHIN_M and -offset[2] < PLACE_WITHIN_HEIGHT_M
    if progress.opening_steps or is_there:
        progress.opening_steps += 1
        rise = progress.lift_to_m - tool[2] if progress.opening_steps > OPENING_STEPS else 0.0
        return Command(_upwards(rise), np.zeros(3), OPEN)
    move = towards(offset + np.array([0.0, 0.0, HOVER_M * funnel(offset, *FUNNEL_M)]))
    return Command(move, np.zeros(3), CLOSE)


def hover(progress: Progress, skill: Hover, state: dict[str, Any]) -> Command:
    """The command in this state; updates `progress`."""
    tool = state["tool_pose"]
    is_over = progress.elapsed_steps + 1 >= skill.until_step  # after the present command
    if is_over and not progress.is_last:
        progress.done += 1
    return Command(towards(skill.place_m - tool[:3]), turn_by(_turn_to_grasp(tool[3:], _UP)), OPEN)


def _upwards(rise: float) -> np.ndarray:
    """The commanded translation to move up by `rise` (m), never down."""
    return np.array([0.0, 0.0, np.clip(TRANSLATION_GAIN * rise, 0.0, LIFT_STEP_MAX_M)])


def _aim(object_pose: np.ndarray, skill: Pick) -> np.ndarray:
    """Target position of the gripper's centre for an object with this pose."""
    lies = skill.is_round or abs(_long_axis(object_pose, skill)[2]) < LIES_BELOW_COSINE
    return object_pose[:3] - np.array([0.0, 0.0, skill.lying_aim_below_m if lies else 0.0])


def _long_axis(object_pose: np.ndarray, skill: Pick) -> np.ndarray:
    """Direction [3] across which to grasp: up for a round object, however it has rolled."""
    if skill.is_round:
        return _UP
    return (x_axis if skill.long_axis == "x" else y_axis)(from_wxyz(object_pose[3:]))


def _turn_to_grasp(
    tool: np.ndarray, long_axis: np.ndarray, tilt: float = APPROACH_TILT_RAD
) -> np.ndarray:
    """Rotation vector (world) from the tool's rotation (wxyz) to the nearer of the two grasps."""
    approach = np.array([-math.sin(tilt), 0.0, -math.cos(tilt)])
    closing = np.cross(long_axis, approach)  # across the object
    return turn_to(tool, approach, closing / math.hypot(*closing))
