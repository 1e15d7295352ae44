"""How the scripted expert opens and closes drawers.

A handle has no solid, so a drawer is opened by its front plate: one finger goes behind the plate's
upper edge, the other stays before it, they close, and the tool pulls. If the plate slips out, start
over. A drawer is closed by pushing with the closed gripper.
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
    Command,
    Progress,
    towards,
    turn_by,
    turn_to,
)

# Downward tilt of the gripper. Steeper than 0.6, the cabinet's top is in the way.
PULL_PITCH_RAD, PUSH_PITCH_RAD = 0.6, 0.35
PATH_PITCH_RAD = 0.1
# Ways to a drawer begin at a point before it, which the tool reaches within these.
BEFORE_WITHIN_M, BEFORE_WITHIN_RAD = 0.03, 0.12
# From the plate's edge, along the approach and up across it: that point, and the hold.
AT_EDGE_M = (0.03, 0.01)
BACK_OFF_M, FUNNEL_INNER_M, FUNNEL_WIDTH_M = 0.15, 0.015, 0.04
NEAR_M = 0.05
AT_WITHIN_M, REACHING_STEPS_MAX = 0.012, 12
CLOSING_STEPS, PULLING_STEPS_MAX = 5, 20
# Each pulling step aims this far ahead, and below the height of the hold: fingers that pull
# straight slide up and off the plate.
PULL_AHEAD_M, PULL_BELOW_M = 0.06, 0.03
AJAR, AJAR_GAIN, AJAR_WITHIN = 0.4, 1.0, 0.15
SLIPPED_BEYOND_M = 0.08  # from tool to edge
PULL_TO_M, OPEN_TO_M, STAYS_OPEN_M = 0.2, 0.18, 0.16  # more than success asks for
FAST_M, SLOW_M = 0.16, 0.08
HOLDING_STEPS = 5  # until an open drawer stands still
# From the middle of the front: that point, and where the push aims.
BEFORE_FRONT_M, BEHIND_FRONT_M = np.array([0.12, 0.0, 0.06]), np.array([-0.08, 0.0, 0.0])
PUSHING_STEPS_MAX = 30
SHUT_M = 0.02  # less than success asks for

_NOWHERE = np.zeros(3)


def pull(progress: Progress, skill: Pull, state: dict[str, Any]) -> Command:
    """The command for a state; updates `progress`."""
    tool, opening = state["tool_pose"], float(state["drawers"][skill.drawer])
    approach, across = _axes(PULL_PITCH_RAD)
    path, _ = _axes(PATH_PITCH_RAD)
    edge = np.array(cabinet.upper_edge(skill.drawer, opening))
    at = edge + AT_EDGE_M[0] * approach + AT_EDGE_M[1] * across - tool[:3]
    turn = turn_to(tool[3:], approach, across)
    if opening >= OPEN_TO_M or (progress.opening_steps and opening >= STAYS_OPEN_M):
        return _leave_open(progress, tool, at - BACK_OFF_M * path, turn)
    progress.opening_steps = 0
    if progress.closing_steps:
        has_slipped = math.hypot(*(edge - tool[:3])) > SLIPPED_BEYOND_M
        if not has_slipped and progress.closing_steps < CLOSING_STEPS + PULLING_STEPS_MAX:
            return _hold_and_pull(progress, tool, turn, opening)
        progress.closing_steps = progress.reaching_steps = 0
    ajar = AJAR - state["gripper"]
    ahead = float(np.sum(at * path))
    sideways = at - ahead * path
    back_off = np.clip((math.hypot(*sideways) - FUNNEL_INNER_M) / FUNNEL_WIDTH_M, 0.0, 1.0)
    if abs(ajar) > AJAR_WITHIN or math.hypot(*turn) > BEFORE_WITHIN_RAD:
        back_off = 1.0
    progress.reaching_steps = progress.reaching_steps + 1 if ahead < NEAR_M and not back_off else 0
    if math.hypot(*at) < AT_WITHIN_M or progress.reaching_steps > REACHING_STEPS_MAX:
        progress.hold_m = tool[:3].copy()
        return _hold_and_pull(progress, tool, turn, opening)
    most = FAST_M if back_off == 1.0 else SLOW_M
    move = towards(_around_the_top(at - back_off * BACK_OFF_M * path), most)
    return Command(move, turn_by(turn), float(np.clip(AJAR_GAIN * ajar, -1, 1)))


def _hold_and_pull(
    progress: Progress, tool: np.ndarray, turn: np.ndarray, opening: float
) -> Command:
    assert progress.hold_m is not None
    progress.closing_steps += 1
    offset = progress.hold_m - tool[:3]
    if progress.closing_steps > CLOSING_STEPS:
        ahead = min(PULL_AHEAD_M, PULL_TO_M - opening)
        offset = np.array([ahead, offset[1], offset[2] - PULL_BELOW_M])
    return Command(towards(offset), turn_by(turn), CLOSE)


def _leave_open(
    progress: Progress, tool: np.ndarray, back: np.ndarray, turn: np.ndarray
) -> Command:
    """Hold until the drawer stands still, then let go and back off."""
    progress.opening_steps += 1
    if progress.opening_steps <= HOLDING_STEPS and progress.hold_m is not None:
        offset = progress.hold_m - tool[:3]
        down = np.array([0.0, offset[1], offset[2] - PULL_BELOW_M])
        return Command(towards(down), turn_by(turn), CLOSE)
    progress.closing_steps = progress.reaching_steps = 0
    if math.hypot(*back) < BEFORE_WITHIN_M and not progress.is_last:
        progress.done += 1
        progress.opening_steps = 0
    return Command(towards(back, SLOW_M), turn_by(turn), OPEN)


def push(progress: Progress, skill: Push, state: dict[str, Any]) -> Command:
    """The command for a state; updates `progress`."""
    tool, opening = state["tool_pose"], float(state["drawers"][skill.drawer])
    if opening <= SHUT_M:
        progress.done += not progress.is_last
        progress.reaching_steps = 0
        return Command(_NOWHERE, _NOWHERE, CLOSE)
    front = np.array(cabinet.front(skill.drawer, opening))
    before = front + BEFORE_FRONT_M - tool[:3]
    turn = turn_to(tool[3:], *_axes(PUSH_PITCH_RAD))
    if progress.reaching_steps > PUSHING_STEPS_MAX:
        progress.reaching_steps = 0
    if not progress.reaching_steps and not _is_before(before, turn):
        return Command(towards(_around_the_top(before)), turn_by(turn), CLOSE)
    progress.reaching_steps += 1
    return Command(towards(front + BEHIND_FRONT_M - tool[:3]), turn_by(turn), CLOSE)


def _axes(pitch: float) -> tuple[np.ndarray, np.ndarray]:
    """Directions of the approach and, across it, of the fingers [3]; pitch: downward tilt (rad)."""
    sine, cosine = math.sin(pitch), math.cos(pitch)
    return np.array([-cosine, 0.0, -sine]), np.array([-sine, 0.0, cosine])


def _is_before(offset: np.ndarray, turn: np.ndarray) -> bool:
    """Whether the tool is where a way begins, `offset` [3] (m) and `turn` [3] (rad) from there."""
    return math.hypot(*offset) < BEFORE_WITHIN_M and math.hypot(*turn) < BEFORE_WITHIN_RAD


def _around_the_top(offset: np.ndarray) -> np.ndarray:
    """The way to a point at `offset` [3] (m): back before down, past what stands out."""
    if offset[0] > BEFORE_WITHIN_M:
        return np.array([offset[0], offset[1], max(offset[2], 0.0)])
    return offset
