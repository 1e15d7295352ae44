"""How the scripted expert grasps and puts down objects with WidowX, straight from above.

The tool points along its own x axis and closes along y. The controller moves a target that the arm
follows with a lag, so a command is the difference between the goal and where the arm would come to
rest by itself.
"""

import math
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from selfflow_robotics.envs.tasks.plan import Grasp, PutOn
from selfflow_robotics.policies.motion import (
    CLOSE,
    OPEN,
    OPEN_BELOW,
    Command,
    Progress,
    funnel,
    item_pose,
    limit,
)
from selfflow_robotics.robot.rotations import from_wxyz

# After a step, the arm still continues by this share of its motion in that step.
LAG = 0.8
MOVE_MAX_M, TURN_MAX_RAD = 0.035, 0.25
# The funnel: stay this high until the gripper is directly above the object and rotated.
HOVER_M, FUNNEL_M = 0.06, (0.008, 0.04)  # see `funnel`
TURNED_WITHIN_RAD = 0.12
DESCENT_MAX_M = 0.025
GRASP_WITHIN_M, GRASP_WITHIN_HEIGHT_M = 0.008, 0.006
CLOSING_STEPS, OPENING_STEPS = 4, 3
LIFTED_WITHIN_M = 0.02
LOST_BEYOND_M = 0.06  # from tool to object
PUT_WITHIN_M, PUT_WITHIN_HEIGHT_M = 0.012, 0.004
UPRIGHT_FROM = 0.8  # cosine between long axis and vertical, above which any side will do
_DOWN = np.array([0.0, 0.0, -1.0])


def grasp(progress: Progress, skill: Grasp, state: dict[str, Any]) -> Command:
    """The command in this state; updates `progress`."""
    tool, pose = state["tool_pose"], item_pose(state, skill.item)
    rest_m, rest_rad = _coasting(progress, tool)
    aim = pose[:3] + from_wxyz(pose[3:]).apply([skill.along_m, 0.0, 0.0])
    aim[2] -= skill.below_m
    if progress.closing_steps and math.hypot(*(aim - tool[:3])) > LOST_BEYOND_M:
        progress.closing_steps = 0
    offset = aim - tool[:3]
    is_there = math.hypot(*offset[:2]) < GRASP_WITHIN_M and abs(offset[2]) < GRASP_WITHIN_HEIGHT_M
    if progress.closing_steps or (is_there and state["gripper"] < OPEN_BELOW):
        if not progress.closing_steps:
            progress.lift_to_m, progress.hold_m = tool[2] + skill.lift_m, tool[:3].copy()
        progress.closing_steps += 1
        if progress.closing_steps <= CLOSING_STEPS:
            return Command(np.zeros(3), np.zeros(3), CLOSE)
        rise = progress.lift_to_m - tool[2]
        if rise < LIFTED_WITHIN_M and not progress.is_last:
            progress.done += 1
        return Command(_go(np.array([0.0, 0.0, rise]), rest_m), np.zeros(3), CLOSE)
    turn = _turn(tool[3:], _closing(pose[3:], skill.across))
    above = funnel(offset, *FUNNEL_M)
    if math.hypot(*turn) > TURNED_WITHIN_RAD or state["gripper"] > OPEN_BELOW:
        above = 1.0
    return Command(
        _go(offset + np.array([0.0, 0.0, HOVER_M * above]), rest_m),
        limit(turn - rest_rad, TURN_MAX_RAD),
        OPEN,
    )


def put_on(progress: Progress, skill: PutOn, state: dict[str, Any]) -> Command:
    """The command in this state; updates `progress`."""
    tool, pose, goal = state["tool_pose"], item_pose(state, skill.item), item_pose(state, skill.to)
    rest_m, _ = _coasting(progress, tool)
    if not progress.opening_steps and math.hypot(*(pose[:3] - tool[:3])) > LOST_BEYOND_M:
        progress.done, progress.closing_steps = progress.done - 1, 0
        return Command(np.zeros(3), np.zeros(3), OPEN)
    offset = goal[:3] + np.array([0.0, 0.0, skill.above_m]) - pose[:3]
    is_there = math.hypot(*offset[:2]) < PUT_WITHIN_M and offset[2] > -PUT_WITHIN_HEIGHT_M
    if progress.opening_steps or is_there:
        progress.opening_steps += 1
        rise = 0.0
        if progress.opening_steps > OPENING_STEPS:
            rise = max(progress.lift_to_m - tool[2], 0.0)
        return Command(_go(np.array([0.0, 0.0, rise]), rest_m), np.zeros(3), OPEN)
    above = np.array([0.0, 0.0, skill.lift_m * funnel(offset, *FUNNEL_M)])
    return Command(_go(offset + above, rest_m), np.zeros(3), CLOSE)


def _coasting(progress: Progress, tool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the arm would continue without a command: translation [3] (m), rotation [3] (rad)."""
    before = tool if progress.last_tool is None else progress.last_tool
    progress.last_tool = tool.copy()
    turned = (from_wxyz(tool[3:]) * from_wxyz(before[3:]).inv()).as_rotvec()
    return LAG * (tool[:3] - before[:3]), LAG * turned


def _go(offset: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The commanded translation towards a point at `offset` [3] (m), limited when descending."""
    move = limit(offset - rest, MOVE_MAX_M)
    move[2] = max(move[2], -DESCENT_MAX_M)
    return move


def _closing(item: np.ndarray, across: str) -> list[np.ndarray]:
    """Horizontal directions [3] along which the fingers may close on an object; `item`: wxyz."""
    turned = from_wxyz(item)
    axes = [turned.apply(axis) for axis in np.eye(3)]
    if across == "y" and abs(axes[0][2]) < UPRIGHT_FROM:  # it may have rolled about x
        axes = [np.cross(_DOWN, axes[0])]
    level = [np.array([axis[0], axis[1], 0.0]) for axis in axes]
    return [axis / math.hypot(*axis) for axis in level if math.hypot(*axis) > 0.5]


def _turn(tool: np.ndarray, closing: list[np.ndarray]) -> np.ndarray:
    """Rotation vector (world) from the tool's rotation (wxyz) to the nearest of the grasps."""
    current = from_wxyz(tool)
    turns = []
    for axis in [sign * one for one in closing for sign in (1.0, -1.0)]:
        goal = np.stack([_DOWN, axis, np.cross(_DOWN, axis)], axis=1)
        turns.append((Rotation.from_matrix(goal) * current.inv()).as_rotvec())
    return min(turns, key=lambda turn: math.hypot(*turn))
