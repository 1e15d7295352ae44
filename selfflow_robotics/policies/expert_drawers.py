"""How the scripted expert opens and closes drawers.

Handles have no collision shape, so a drawer is opened by its front plate: the open gripper comes
from the front until one finger is above and behind the plate's upper edge and the other below and
in front of it; then it closes and pulls. It starts over if the plate slips out. A drawer is closed
by pushing it with the closed gripper.
"""

import math
from typing import Any

import numpy as np

from selfflow_robotics.envs.tasks import cabinet
from selfflow_robotics.envs.tasks.plan import Pull, Push
from selfflow_robotics.policies.motion import (
    CLOSE,
    OPEN,
    OPEN_BELOW,
    TRANSLATION_MAX_M,
    Command,
    Progress,
    towards,
    turn_by,
    turn_to,
)

# Downward tilt of the gripper. When pulling, a steeper one would hit the cabinet's top.
PULL_PITCH_RAD, PUSH_PITCH_RAD = 0.6, 0.35
PULL_TURN_WITHIN_RAD = 0.12

# The path to the plate is nearly level: there are 10 cm of clearance above it, and the upper finger
# is far above the tool.
PATH_PITCH_RAD = 0.1
# The hold: the tool is this far past the plate's upper edge, along the gripper.
HOLD_AHEAD_M = 0.035
# The funnel: stay this far in front of the hold until the gripper is aligned, then approach slowly.
BACK_OFF_M, FUNNEL_INNER_M, FUNNEL_WIDTH_M = 0.15, 0.015, 0.04
IN_FUNNEL_MAX_M = 0.08
HOLD_WITHIN_M = 0.012
NEAR_M, NEAR_STEPS_MAX = 0.05, 12  # after so many steps this near, grasp: something blocks it
CLOSING_STEPS, PULLING_STEPS_MAX = 5, 20
# Each pulling step aims this far ahead, and below the height of the hold: fingers that pull
# straight slide up and off the plate.
PULL_AHEAD_M, PULL_BELOW_M = 0.06, 0.03
SLIPPED_BEYOND_M = 0.08  # from tool to edge
# Opening to pull to; above which it counts as open; below which it counts as lost. Success needs
# 0.15.
PULL_TO_M, OPEN_FROM_M, LOST_BELOW_M = 0.20, 0.18, 0.16
STOPPING_STEPS = 5  # until the drawer has come to rest
LEFT_WITHIN_M = 0.03  # when the next skill begins

# Relative to the middle of the front: where the push starts, and where it aims.
BEFORE_FRONT_M, BEHIND_FRONT_M = np.array([0.12, 0.0, 0.06]), np.array([-0.08, 0.0, 0.0])
# How far to the side of the base to push. Directly in front of it, the arm folds up and gets stuck;
# on the side away from the hand (-y), the wrist soon reaches its limit.
AWAY_SIDE_M, HAND_SIDE_M = -0.12, 0.17
# The push starts behind a gap, within these tolerances. They are wide: so near to its base the arm
# cannot reach every pose, and a front is large.
GAP_M, ASIDE_MAX_M, ABOVE_MAX_M, BELOW_MAX_M, BEFORE_WITHIN_RAD = 0.04, 0.12, 0.09, 0.04, 0.65
CLEAR_M, CLEAR_HEIGHT_M = 0.1, 0.2  # in front of the cabinet's top; above the front's middle
PUSHING_STEPS_MAX = 30
SHUT_BELOW_M = 0.02  # success needs 0.05

PAST_M = 0.03  # if the tool is farther than this past its goal, it moves back before down

_STILL = np.zeros(3)


def pull(progress: Progress, skill: Pull, state: dict[str, Any]) -> Command:
    """The command in this state; updates `progress`."""
    tool, opening = state["tool_pose"], float(state["drawers"][skill.drawer])
    gripper, across = _axes(PULL_PITCH_RAD)
    path, _ = _axes(PATH_PITCH_RAD)
    to_edge = np.array(cabinet.upper_edge(skill.drawer, opening)) - tool[:3]
    to_hold = to_edge + HOLD_AHEAD_M * gripper
    turn = turn_to(tool[3:], gripper, across)
    if opening >= (LOST_BELOW_M if progress.opening_steps else OPEN_FROM_M):
        return _leave_open(progress, tool, to_hold - BACK_OFF_M * path, turn)
    progress.opening_steps = 0
    if progress.closing_steps:
        has_slipped = math.hypot(*to_edge) > SLIPPED_BEYOND_M
        if not has_slipped and progress.closing_steps < CLOSING_STEPS + PULLING_STEPS_MAX:
            return _hold_and_pull(progress, tool, turn, PULL_TO_M - opening)
        progress.closing_steps = progress.near_steps = 0

    ahead = float(np.sum(to_hold * path))
    sideways = math.hypot(*(to_hold - ahead * path))
    back_off = float(np.clip((sideways - FUNNEL_INNER_M) / FUNNEL_WIDTH_M, 0.0, 1.0))
    if state["gripper"] > OPEN_BELOW or math.hypot(*turn) > PULL_TURN_WITHIN_RAD:
        back_off = 1.0
    progress.near_steps = progress.near_steps + 1 if ahead < NEAR_M and not back_off else 0
    if math.hypot(*to_hold) < HOLD_WITHIN_M or progress.near_steps > NEAR_STEPS_MAX:
        progress.hold_m = tool[:3].copy()
        return _hold_and_pull(progress, tool, turn, PULL_TO_M - opening)
    offset = _around_the_top(to_hold - back_off * BACK_OFF_M * path)
    move = towards(offset, TRANSLATION_MAX_M if back_off == 1.0 else IN_FUNNEL_MAX_M)
    return Command(move, turn_by(turn), OPEN)


def _hold_and_pull(
    progress: Progress, tool: np.ndarray, turn: np.ndarray, left_m: float
) -> Command:
    """Close the gripper where the hold began, then pull; left_m: the distance left."""
    assert progress.hold_m is not None
    progress.closing_steps += 1
    offset = progress.hold_m - tool[:3]
    if progress.closing_steps > CLOSING_STEPS:
        offset = np.array([min(PULL_AHEAD_M, left_m), offset[1], offset[2] - PULL_BELOW_M])
    return Command(towards(offset), turn_by(turn), CLOSE)


def _leave_open(
    progress: Progress, tool: np.ndarray, back: np.ndarray, turn: np.ndarray
) -> Command:
    """Hold until the drawer is at rest, then let go and move by `back` [3] (m)."""
    progress.opening_steps += 1
    if progress.opening_steps <= STOPPING_STEPS and progress.hold_m is not None:
        offset = progress.hold_m - tool[:3]
        offset = np.array([0.0, offset[1], offset[2] - PULL_BELOW_M])
        return Command(towards(offset), turn_by(turn), CLOSE)
    progress.closing_steps = progress.near_steps = 0
    if math.hypot(*back) < LEFT_WITHIN_M and not progress.is_last:
        progress.done, progress.opening_steps = progress.done + 1, 0
    return Command(towards(back, IN_FUNNEL_MAX_M), turn_by(turn), OPEN)


def push(progress: Progress, skill: Push, state: dict[str, Any]) -> Command:
    """The command in this state; updates `progress`."""
    tool, opening = state["tool_pose"], float(state["drawers"][skill.drawer])
    if opening < SHUT_BELOW_M:
        progress.done += not progress.is_last
        progress.pushing_steps = 0
        return Command(_STILL, _STILL, CLOSE)
    front = np.array(cabinet.front(skill.drawer, opening))
    front[1] = _within_reach(front[1], state["base_pose"][1])
    to_front = front - tool[:3]
    before = to_front + BEFORE_FRONT_M
    turn = turn_to(tool[3:], *_axes(PUSH_PITCH_RAD))
    if progress.pushing_steps > PUSHING_STEPS_MAX:
        progress.pushing_steps = 0
    is_before = (
        to_front[0] < -GAP_M
        and abs(to_front[1]) < ASIDE_MAX_M
        and -ABOVE_MAX_M < to_front[2] < BELOW_MAX_M
        and math.hypot(*turn) < BEFORE_WITHIN_RAD
    )
    if not progress.pushing_steps and not is_before:
        # Only if necessary: the arm cannot retract the tool at the height at which it starts.
        over_top = tool[0] < cabinet.EDGE_X + CLEAR_M
        over_front = to_front[2] > -CLEAR_HEIGHT_M
        offset = _around_the_top(before) if over_top or over_front else before
        return Command(towards(offset), turn_by(turn), CLOSE)
    progress.pushing_steps += 1
    return Command(towards(to_front + BEHIND_FRONT_M), turn_by(turn), CLOSE)


def _within_reach(y: float, base_y: float) -> float:
    """The y (m) at which to push a front centred at y, from a base at base_y."""
    aside = y - base_y
    return base_y + max(aside, AWAY_SIDE_M if aside < AWAY_SIDE_M else HAND_SIDE_M)


def _axes(pitch: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [3] along a gripper tilted down by `pitch` (rad), and upwards across it."""
    sine, cosine = math.sin(pitch), math.cos(pitch)
    return np.array([-cosine, 0.0, -sine]), np.array([-sine, 0.0, cosine])


def _around_the_top(offset: np.ndarray) -> np.ndarray:
    """Where to move for a goal at `offset` [3] (m): back before down, around the cabinet's top."""
    if offset[0] > PAST_M:
        return np.array([offset[0], offset[1], max(offset[2], 0.0)])
    return offset
