"""BridgeData V2's actions and robot states (WidowX), and conversions.

| name   | layout                                                                             |
|--------|------------------------------------------------------------------------------------|
| action | [7]: the policy vector of `robot.actions`; real recordings have grippers between    |
|        | 0 (closed) and 1 (open)                                                            |
| state  | [7]: tool position (m), rotation relative to pointing straight down (roll, pitch,  |
|        | yaw in rad), gripper from 0 (closed) to 1 (open); base frame                       |

Source: rail-berkeley/bridge_data_robot (widowx_controller.py, the default rotation), and Octo's
`binarize_gripper_actions`.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from selfflow_robotics.robot.actions import GRIPPER

# The rotation of a tool that points straight down, in the base frame.
DOWN = Rotation.from_matrix([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
_OPEN_FROM, _CLOSED_UP_TO = 0.95, 0.05


def state_from_proprio(proprio: np.ndarray) -> np.ndarray:
    """RT-1's proprioception [T, 8] (xyz, quaternion xyzw, closedness) as states float32 [T, 7]."""
    turns = Rotation.from_quat(proprio[:, 3:7]) * DOWN.inv()
    parts = [proprio[:, :3], turns.as_euler("xyz"), 1.0 - proprio[:, 7:]]
    return np.concatenate(parts, axis=1).astype(np.float32)


def proprio_from_state(state: np.ndarray) -> np.ndarray:
    """The inverse of `state_from_proprio`, float32 [T, 8]; the quaternion's w is not negative, and
    the quaternion of angles that are not finite is NaN."""
    angles = state[:, 3:6]
    is_finite = np.isfinite(angles).all(axis=1, keepdims=True)
    turns = Rotation.from_euler("xyz", np.where(is_finite, angles, 0.0)) * DOWN
    quaternions = np.where(is_finite, turns.as_quat(), np.nan)
    quaternions *= np.where(quaternions[:, 3:] < 0, -1.0, 1.0)
    parts = [state[:, :3], quaternions, 1.0 - state[:, 6:]]
    return np.concatenate(parts, axis=1).astype(np.float32)


def policy_from_bridge(actions: np.ndarray) -> np.ndarray:
    """Stored actions [T, 7] of a whole episode as policy vectors float32 [T, 7].

    A gripper between open and closed counts as the next of the two that it reaches. Numbers that
    are not finite stay so.
    """
    actions = np.array(actions, np.float32)
    gripper = actions[:, GRIPPER]
    is_decided = (gripper > _OPEN_FROM) | (gripper < _CLOSED_UP_TO)
    steps = np.where(is_decided, np.arange(len(gripper)), len(gripper) - 1)
    following = np.minimum.accumulate(steps[::-1])[::-1]
    actions[:, GRIPPER] = np.where(np.isfinite(gripper), gripper[following] > 0.5, gripper)
    return actions
