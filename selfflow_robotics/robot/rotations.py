"""Rotation conventions of this project, on top of SciPy's rotations.

* Quaternions are `wxyz` unless a name says `xyzw` (RT-1's stored tool pose and SciPy use xyzw).
* Roll, pitch, yaw (radians) are turns about the fixed x, y, z axes in that order:
  R = Rz(yaw) Ry(pitch) Rx(roll), RT-1's and SIMPLER's meaning (extrinsic "xyz").
* A rotation vector is axis times angle, in radians, of length at most pi when computed here.
* A pose is [x, y, z, qw, qx, qy, qz], metres and a unit quaternion.

Recordings are bit-identical on every machine (docs/reproducibility.md). SciPy processes rotations
one by one in plain compiled code; numpy's sines and matrix products depend on the processor.
"""

import warnings

import numpy as np
from scipy.spatial.transform import Rotation


def from_wxyz(quaternion: np.ndarray) -> Rotation:
    """Rotations from quaternions wxyz [4] or [N, 4] of any non-zero length (else ValueError)."""
    return Rotation.from_quat(np.asarray(quaternion)[..., [1, 2, 3, 0]])


def rpy_to_rotvec(rpy: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw [..., 3] (rad) to rotation vectors float64 [..., 3] (rad, length <= pi)."""
    rpy = np.asarray(rpy, np.float64)
    return Rotation.from_euler("xyz", rpy.reshape(-1, 3)).as_rotvec().reshape(rpy.shape)


def rotvec_to_rpy(rotvec: np.ndarray) -> np.ndarray:
    """Rotation vectors [..., 3] (rad) to roll, pitch, yaw float64 [..., 3]; |pitch| <= pi/2 (rad).

    At |pitch| = pi/2, yaw is set to 0.
    """
    rotvec = np.asarray(rotvec, np.float64)
    rotations = Rotation.from_rotvec(rotvec.reshape(-1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "Gimbal lock detected"
        return rotations.as_euler("xyz").reshape(rotvec.shape)
