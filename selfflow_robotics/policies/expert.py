"""A scripted expert that picks up the object, using privileged state (`info["state"]`), no images.

It uses the same actions as every policy and runs in each simulator, since all share SIMPLER's
kinematics and response. The procedure: lower the open gripper onto the object through a funnel,
close, lift; start over if the object is not in the gripper. All directions are in the world frame
until the last line: z is up, -x points away from the robot.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.robot.rotations import from_wxyz

# The wrist cannot point straight down over most of the table, and from 40 degrees on, a finger hits
# the table before it passes a can lying across.
APPROACH_TILT_RAD = math.radians(32)
# The funnel: stay this high until the gripper is directly above the object.
HOVER_M = 0.09
FUNNEL_INNER_M, FUNNEL_WIDTH_M = 0.015, 0.06
# Fingers that close above the middle of a lying can slide off its round top (12 mm above, 3 of 10
# grasps hold in SIMPLER; 8 mm below, 16 of 16). Aiming lower leaves a margin for a policy's errors.
LYING_AIM_BELOW_M = 0.007
LIES_BELOW_COSINE = 0.5  # between the can's axis and up
LIFT_M, LIFT_STEP_MAX_M = 0.12, 0.08
# The arm executes about a third of a command per step, so commands exceed the error. But not by
# much: near the end of its reach, the arm does not move at all towards a point out of reach.
TRANSLATION_GAIN, TRANSLATION_MAX_M, OVERSHOOT_MAX_M = 1.6, 0.16, 0.03
ROTATION_GAIN, ROTATION_MAX_RAD = 1.2, 0.6
GRASP_WITHIN_M = 0.013
LOST_BEYOND_M = 0.04
CLOSING_STEPS = 5
OPEN_BELOW = 0.2  # closedness at which the fingers pass on either side of the object

OPEN, CLOSE = -1.0, 1.0


@dataclass
class Grasp:
    """The expert's state in an episode."""

    closing_steps: int = 0  # 0 while approaching
    lift_to_m: float = 0.0


class ScriptedExpert:
    """Picks up an upright or lying can from info["state"]; chunks of one action."""

    name = "expert"
    privileged = True
    looks = False

    def __init__(self) -> None:
        self._grasps: dict[int, Grasp] = {}

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        """Reset the state of the slot."""
        self._grasps[slot] = Grasp()

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
            self.decide(self._grasps[slot], info["state"])[None]
            for slot, info in zip(slots, infos, strict=True)
        ]

    def decide(self, grasp: Grasp, state: dict[str, Any]) -> np.ndarray:
        """The action float32 [7] for a state; updates `grasp`."""
        tool, base = state["tool_pose"], state["base_pose"]
        center = _aim(state["object_pose"])
        offset = center - tool[:3]
        distance = math.hypot(*offset)
        if grasp.closing_steps and distance > LOST_BEYOND_M:
            grasp.closing_steps = 0
        if grasp.closing_steps or (distance < GRASP_WITHIN_M and state["gripper"] < OPEN_BELOW):
            if not grasp.closing_steps:
                grasp.lift_to_m = tool[2] + LIFT_M
            grasp.closing_steps += 1
            rise = grasp.lift_to_m - tool[2] if grasp.closing_steps > CLOSING_STEPS else 0.0
            move = np.array([0.0, 0.0, np.clip(TRANSLATION_GAIN * rise, 0.0, LIFT_STEP_MAX_M)])
            turn, gripper = np.zeros(3), CLOSE
        else:
            lateral = math.hypot(*offset[:2])
            hover = np.clip((lateral - FUNNEL_INNER_M) / FUNNEL_WIDTH_M, 0.0, 1.0)
            if state["gripper"] > OPEN_BELOW:
                hover = 1.0
            error = offset + np.array([0.0, 0.0, HOVER_M * hover])
            most = min(TRANSLATION_MAX_M, math.hypot(*error) + OVERSHOOT_MAX_M)
            move = _limit(TRANSLATION_GAIN * error, most)
            turn = _turn_to_grasp(tool[3:], state["object_pose"][3:])
            turn, gripper = _limit(ROTATION_GAIN * turn, ROTATION_MAX_RAD), OPEN
        in_base = from_wxyz(base[3:]).inv().apply([move, turn])
        return np.append(in_base, gripper).astype(np.float32)


def _y_axis(rotation: Rotation) -> np.ndarray:
    """The y axis of a rotation [3]: the can's long axis, and the axis along which the fingers
    close."""
    return rotation.apply([0.0, 1.0, 0.0])


def _aim(object_pose: np.ndarray) -> np.ndarray:
    """Target position of the gripper's centre for an object with this pose."""
    lies = abs(_y_axis(from_wxyz(object_pose[3:]))[2]) < LIES_BELOW_COSINE
    return object_pose[:3] - np.array([0.0, 0.0, LYING_AIM_BELOW_M if lies else 0.0])


def _turn_to_grasp(tool: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation vector (world) from the tool's rotation (wxyz) to the nearer of the two grasps."""
    current = from_wxyz(tool)
    approach = np.array([-math.sin(APPROACH_TILT_RAD), 0.0, -math.cos(APPROACH_TILT_RAD)])
    closing = np.cross(_y_axis(from_wxyz(target)), approach)  # across the can
    closing /= math.hypot(*closing)
    if np.sum(closing * _y_axis(current)) < 0:
        closing = -closing
    goal = np.stack([np.cross(closing, approach), closing, approach], axis=1)
    return (Rotation.from_matrix(goal) * current.inv()).as_rotvec()


def _limit(vector: np.ndarray, longest: float) -> np.ndarray:
    return vector * min(1.0, longest / max(math.hypot(*vector), 1e-9))
