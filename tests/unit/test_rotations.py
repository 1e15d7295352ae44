"""Our conventions of rotations, told to SciPy and undone again."""

import warnings

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from selfflow_robotics.robot.rotations import from_wxyz, rotvec_to_rpy, rpy_to_rotvec

SCIPY = Rotation.random(200, random_state=1)


def matrix(rpy) -> np.ndarray:
    """R = Rz(yaw) Ry(pitch) Rx(roll), written out."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return z @ y @ x


def test_quaternions_begin_with_w():
    quarter_about_z = from_wxyz([1.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(quarter_about_z.apply([1.0, 0.0, 0.0]), [0.0, 1.0, 0.0], atol=1e-12)
    wxyz = SCIPY.as_quat()[:, [3, 0, 1, 2]]
    np.testing.assert_allclose(from_wxyz(wxyz).as_matrix(), SCIPY.as_matrix(), atol=1e-12)


@pytest.mark.parametrize("rpy", [(0.3, -0.2, 0.1), (1.2, 0.7, -2.9), (np.pi / 2, 0.0, np.pi / 2)])
def test_rpy_turns_about_fixed_axes_in_order(rpy):
    turned = Rotation.from_rotvec(rpy_to_rotvec(rpy))
    np.testing.assert_allclose(turned.as_matrix(), matrix(rpy), atol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (5, 3), (4, 5, 3)])
def test_rpy_there_and_back_in_any_leading_shape(shape):
    rpy = np.random.Generator(np.random.PCG64(3)).uniform(-1.5, 1.5, shape)
    rotvec = rpy_to_rotvec(rpy)
    assert rotvec.shape == shape
    np.testing.assert_allclose(rotvec_to_rpy(rotvec), rpy, atol=1e-12)


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2])
def test_gimbal_lock_gives_the_same_rotation_with_yaw_zero(pitch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rpy = rotvec_to_rpy(rpy_to_rotvec([0.4, pitch, 0.9]))
    assert rpy[2] == 0
    np.testing.assert_allclose(matrix(rpy), matrix([0.4, pitch, 0.9]), atol=1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-14, 1e-9, 1e-4, 1.0])
def test_rotation_vectors_near_zero(angle):
    rotvec = angle * np.array([0.6, 0.0, 0.8])
    np.testing.assert_allclose(rpy_to_rotvec(rotvec_to_rpy(rotvec)), rotvec, atol=1e-12)
