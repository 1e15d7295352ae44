"""Inverse kinematics of the arm: closed-loop, damped least squares, on MuJoCo's Jacobian.

All products and the solver are MuJoCo's: numpy's come from a BLAS that rounds differently on each
kind of processor, and a rollout amplifies differences in the last bit.
"""

import math

import numpy as np

from selfflow_robotics.envs.tabletop.backend import mujoco

# SIMPLER's solver (pinocchio's closed-loop inverse kinematics: steps of a tenth, damping 1e-6, from
# the measured angles, no joint limits) follows the screw to the target. A redundant arm ends
# elsewhere when it gets there by other steps, so ours are small until the rest is tiny: over the
# recorded actions the two agree to 3 mrad a joint.
STEP = 0.25
DAMPING = 1e-6
TOLERANCE = 1e-4  # norm of the pose error, metres and radians together
MAX_ITERATIONS = 50


class ArmKinematics:
    """Solves for the arm's angles, n of them; the frame is the robot's base."""

    def __init__(self, mjcf: str) -> None:
        """mjcf: the arm alone, with a site "tool"."""
        self._model = mujoco.MjModel.from_xml_string(mjcf)
        self._data = mujoco.MjData(self._model)
        self._tool = self._model.site("tool").id
        self._jacobian = np.zeros((6, self._model.nv))
        self._normal, self._step = np.zeros((6, 6)), np.zeros(self._model.nv)

    def tool_pose(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] and rotation matrix [3, 3] of the tool in the base frame at angles q [n]."""
        self._data.qpos[:] = q
        mujoco.mj_kinematics(self._model, self._data)
        rotation = self._data.site_xmat[self._tool].reshape(3, 3).copy()
        return self._data.site_xpos[self._tool].copy(), rotation

    def solve(self, translation: np.ndarray, rotation_vector: np.ndarray, q: np.ndarray):
        """Angles [n] that move the tool from its pose at q [n] by a translation [3] (m) and a turn.

        Both are in the base frame; the rotation vector [3] (rad) turns about the tool point. None
        where no solution is found.
        """
        position, rotation = self.tool_pose(q)
        target_position = position + translation
        target_rotation = np.empty((3, 3))
        mujoco.mju_mulMatMat(target_rotation, rotation_matrix(rotation_vector), rotation)
        return self.reach(target_position, target_rotation, q)

    def reach(self, target_position: np.ndarray, target_rotation: np.ndarray, q: np.ndarray):
        """Angles [n] that bring the tool to a position [3] and rotation matrix [3, 3], from q [n].

        None where no solution is found.
        """
        q = np.array(q, np.float64)
        for _ in range(MAX_ITERATIONS):
            position, rotation = self.tool_pose(q)
            error = pose_error(position, rotation, target_position, target_rotation)
            size = mujoco.mju_norm(error)
            if size < TOLERANCE:
                return q
            mujoco.mj_comPos(self._model, self._data)
            jacobian, normal = self._jacobian, self._normal
            mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._tool)
            mujoco.mju_mulMatMatT(normal, jacobian, jacobian)
            normal.flat[::7] += DAMPING
            mujoco.mju_cholFactor(normal, 0.0)
            mujoco.mju_cholSolve(error, normal, error)
            mujoco.mju_mulMatTVec(self._step, jacobian, error)
            q += (STEP if size > 0.01 else 1.0) * self._step
        return None


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] of a rotation vector [3] (rad)."""
    angle = math.hypot(*vector)
    quaternion, matrix = np.empty(4), np.empty(9)
    axis = np.asarray(vector, np.float64) / angle if angle > 0 else np.array([1.0, 0.0, 0.0])
    mujoco.mju_axisAngle2Quat(quaternion, axis, angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Rotation vector [3] (rad, norm at most pi) of a rotation matrix [3, 3]."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(matrix).reshape(9))
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def pose_error(position, rotation, target_position, target_rotation) -> np.ndarray:
    """Velocity [6] (m/s of the tool point, rad/s; base frame) that reaches the target in 1 s.

    The motion is the screw from pose to target (logarithm in SE(3)), as pinocchio's solver has it.
    """
    change, across, twice = np.empty((3, 3)), np.empty(3), np.empty(3)
    mujoco.mju_mulMatMatT(change, target_rotation, rotation)
    turn = rotation_vector(change)
    shift = target_position - position
    angle = math.hypot(*turn)
    if angle > 1e-6:
        half = angle / 2
        factor = (1.0 - half / math.tan(half)) / angle**2
        mujoco.mju_cross(across, turn, shift)
        mujoco.mju_cross(twice, turn, across)
        shift = shift - 0.5 * across + factor * twice
    return np.concatenate([shift, turn])
