"""Rotation conversions agree with SciPy's and undo one another."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from selfflow_robotics.robot import rotations

SCIPY = Rotation.random(200, random_state=1)
# SciPy writes quaternions xyzw with either sign; ours are wxyz with w >= 0.
WXYZ = SCIPY.as_quat(canonical=True)[:, [3, 0, 1, 2]]
MATRICES = SCIPY.as_matrix()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (rotations.rpy_to_matrix(SCIPY.as_euler("xyz")), MATRICES),
        (rotations.matrix_to_rpy(MATRICES), SCIPY.as_euler("xyz")),
        (rotations.quaternion_to_matrix(WXYZ), MATRICES),
        (rotations.matrix_to_quaternion(MATRICES), WXYZ),
        (rotations.rotvec_to_matrix(SCIPY.as_rotvec()), MATRICES),
        (rotations.matrix_to_rotvec(MATRICES), SCIPY.as_rotvec()),
        (rotations.rpy_to_rotvec(SCIPY.as_euler("xyz")), SCIPY.as_rotvec()),
        (rotations.rotvec_to_rpy(SCIPY.as_rotvec()), SCIPY.as_euler("xyz")),
        (rotations.quaternion_rotate(WXYZ, [1.0, 2.0, 3.0]), SCIPY.apply([1.0, 2.0, 3.0])),
    ],
)
def test_agrees_with_scipy(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_product_is_right_then_left():
    other = Rotation.random(200, random_state=2)
    product = rotations.quaternion_multiply(WXYZ, other.as_quat()[:, [3, 0, 1, 2]])
    expected = (SCIPY * other).as_matrix()
    np.testing.assert_allclose(rotations.quaternion_to_matrix(product), expected, atol=1e-12)


def test_rpy_turns_about_fixed_axes_in_order():
    # Roll by 90 degrees takes y to z; yaw by 90 degrees then leaves z where it is.
    matrix = rotations.rpy_to_matrix([np.pi / 2, 0.0, np.pi / 2])
    np.testing.assert_allclose(matrix @ [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], atol=1e-12)


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2])
def test_gimbal_lock_gives_the_same_rotation_with_yaw_zero(pitch):
    matrix = rotations.rpy_to_matrix([0.4, pitch, 0.9])
    rpy = rotations.matrix_to_rpy(matrix)
    assert rpy[2] == 0
    np.testing.assert_allclose(rotations.rpy_to_matrix(rpy), matrix, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 1e-14, 1e-9, 1e-4, np.pi - 1e-9, np.pi])
def test_rotation_vectors_near_zero_and_half_a_turn(angle):
    rotvec = angle * np.array([0.6, 0.0, 0.8])
    back = rotations.matrix_to_rotvec(rotations.rotvec_to_matrix(rotvec))
    np.testing.assert_allclose(back, rotvec, atol=1e-12 if angle < 3 else 1e-7)


def test_pose_inverse_and_product():
    generator = np.random.Generator(np.random.PCG64(3))
    poses = np.concatenate([generator.normal(size=(200, 3)), WXYZ], axis=1)
    identity = rotations.pose_multiply(rotations.pose_inverse(poses), poses)
    np.testing.assert_allclose(identity, np.tile([0, 0, 0, 1, 0, 0, 0], (200, 1)), atol=1e-12)


def test_quaternion_order():
    np.testing.assert_array_equal(rotations.wxyz_to_xyzw([1, 2, 3, 4]), [2, 3, 4, 1])
