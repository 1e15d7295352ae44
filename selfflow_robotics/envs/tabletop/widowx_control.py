"""WidowX: from one action to the drive targets of every physics step, as SIMPLER's controllers.

Source of the rules: ManiSkill2_real2sim agents/controllers/pd_ee_pose.py (use_target, frame
"ee_align2") and pd_joint_pos.py. An action moves the last *target* pose: it rotates it about the
measured tool point and translates it. The joints' drives get the new target at once and follow with
a lag. The fingers' target is a position: gripper action +1 closes, -1 opens, and 0 keeps it.
"""

import numpy as np

from selfflow_robotics.envs.tabletop import widowx
from selfflow_robotics.envs.tabletop.backend import mujoco
from selfflow_robotics.envs.tabletop.kinematics import ArmKinematics, rotation_matrix

_NUM_ARM = len(widowx.ARM_JOINTS)
_ARM_RANGE = np.array(widowx.ARM_RANGES).T


class WidowXController:
    """Arm and gripper."""

    def __init__(self) -> None:
        self._kinematics = ArmKinematics(widowx.arm_only_mjcf())

    def reset(self, q: np.ndarray) -> None:
        """Forget what was commanded; the joints are at q [8]."""
        self._position, self._rotation = self._kinematics.tool_pose(q[:_NUM_ARM])
        self._fingers = float(np.mean(q[_NUM_ARM:]))

    def drive_targets(self, action: np.ndarray, q: np.ndarray, qdot: np.ndarray) -> np.ndarray:
        """Joint targets [SUBSTEPS, 8] for an action float64 [7]; q, qdot: measured [8]."""
        pivot, _ = self._kinematics.tool_pose(q[:_NUM_ARM])
        turn, arm, rotation = rotation_matrix(action[3:6]), np.empty(3), np.empty((3, 3))
        mujoco.mju_mulMatVec(arm, turn, self._position - pivot)
        mujoco.mju_mulMatMat(rotation, turn, self._rotation)
        self._position, self._rotation = pivot + arm + action[:3], rotation
        target = self._kinematics.reach(self._position, self._rotation, q[:_NUM_ARM])
        if target is None:  # SIMPLER: no solution, aim at where the arm is
            target = q[:_NUM_ARM]
        if action[6]:
            closed, opened = widowx.FINGER_TARGETS
            share = (1.0 - float(np.clip(action[6], -1.0, 1.0))) / 2
            # PhysX takes drive targets within a joint's range only.
            self._fingers = min(max(closed + share * (opened - closed), widowx.FINGER_LIMITS[0]),
                                widowx.FINGER_LIMITS[1])  # fmt: skip
        targets = np.append(np.clip(target, *_ARM_RANGE), [self._fingers] * 2)
        return np.tile(targets, (widowx.SUBSTEPS, 1))
