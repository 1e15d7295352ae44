"""Rotations and poses in numpy, in the two conventions that this project meets.

* Quaternions are `wxyz` unless a name says `xyzw` (RT-1's stored tool pose alone uses xyzw).
* Roll, pitch, yaw (radians) are turns about the fixed x, y, z axes in that order:
  R = Rz(yaw) Ry(pitch) Rx(roll), RT-1's and SIMPLER's meaning (extrinsic "sxyz").
* A rotation vector is axis times angle, in radians, of length at most pi when computed here.
* A pose is [x, y, z, qw, qx, qy, qz], metres and a unit quaternion.

Every function takes any leading dimensions and works in float64.
"""

import numpy as np

# Below this cosine of the pitch only roll - yaw (or roll + yaw) is defined.
_GIMBAL_COSINE = 1e-9


def rpy_to_matrix(rpy: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw [..., 3] (rad) to rotation matrices [..., 3, 3]."""
    rpy = np.asarray(rpy, np.float64)
    cr, cp, cy = np.moveaxis(np.cos(rpy), -1, 0)
    sr, sp, sy = np.moveaxis(np.sin(rpy), -1, 0)
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def matrix_to_rpy(matrix: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] to roll, pitch, yaw [..., 3] (rad); pitch in [-pi/2, pi/2].

    Looking straight up or down (|pitch| = pi/2) yaw is taken as 0.
    """
    m = np.asarray(matrix, np.float64)
    cosine = np.hypot(m[..., 0, 0], m[..., 1, 0])
    regular = cosine > _GIMBAL_COSINE
    roll = np.where(
        regular,
        np.arctan2(m[..., 2, 1], m[..., 2, 2]),
        np.arctan2(-m[..., 1, 2], m[..., 1, 1]),
    )
    pitch = np.arctan2(-m[..., 2, 0], cosine)
    yaw = np.where(regular, np.arctan2(m[..., 1, 0], m[..., 0, 0]), 0.0)
    return np.stack([roll, pitch, yaw], -1)


def quaternion_to_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Quaternions wxyz [..., 4] (any length but zero) to rotation matrices [..., 3, 3]."""
    w, x, y, z = np.moveaxis(normalize_quaternion(quaternion), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def matrix_to_quaternion(matrix: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] to unit quaternions wxyz [..., 4] with w >= 0."""
    m = np.asarray(matrix, np.float64)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    x, y, z = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    xy = m[..., 1, 0] + m[..., 0, 1]
    xz = m[..., 0, 2] + m[..., 2, 0]
    yz = m[..., 2, 1] + m[..., 1, 2]
    # Row k of this matrix is 4 q_k q; the row with the largest diagonal loses no digits (Shepperd).
    products = np.stack(
        [
            np.stack([1 + xx + yy + zz, x, y, z], -1),
            np.stack([x, 1 + xx - yy - zz, xy, xz], -1),
            np.stack([y, xy, 1 - xx + yy - zz, yz], -1),
            np.stack([z, xz, yz, 1 - xx - yy + zz], -1),
        ],
        -2,
    )
    best = np.argmax(np.diagonal(products, axis1=-2, axis2=-1), -1)
    row = np.take_along_axis(products, best[..., None, None], -2)[..., 0, :]
    return _positive_w(normalize_quaternion(row))


def rotvec_to_quaternion(rotvec: np.ndarray) -> np.ndarray:
    """Rotation vectors [..., 3] (rad) to unit quaternions wxyz [..., 4]."""
    rotvec = np.asarray(rotvec, np.float64)
    half = np.linalg.norm(rotvec, axis=-1, keepdims=True) / 2
    # numpy's sinc(u) is sin(pi u) / (pi u), exact at 0.
    return np.concatenate([np.cos(half), rotvec * np.sinc(half / np.pi) / 2], -1)


def quaternion_to_rotvec(quaternion: np.ndarray) -> np.ndarray:
    """Quaternions wxyz [..., 4] to the shortest rotation vectors [..., 3] (rad, length <= pi)."""
    q = _positive_w(normalize_quaternion(quaternion))
    w, v = q[..., :1], q[..., 1:]
    sine = np.linalg.norm(v, axis=-1, keepdims=True)
    tiny = sine < 1e-12
    scale = np.where(tiny, 2.0, 2 * np.arctan2(sine, w) / np.where(tiny, 1.0, sine))
    return v * scale


def rotvec_to_matrix(rotvec: np.ndarray) -> np.ndarray:
    """Rotation vectors [..., 3] (rad) to rotation matrices [..., 3, 3]."""
    return quaternion_to_matrix(rotvec_to_quaternion(rotvec))


def matrix_to_rotvec(matrix: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] to rotation vectors [..., 3] (rad, length <= pi)."""
    return quaternion_to_rotvec(matrix_to_quaternion(matrix))


def rpy_to_rotvec(rpy: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw [..., 3] (rad) to rotation vectors [..., 3] (rad, length <= pi)."""
    return matrix_to_rotvec(rpy_to_matrix(rpy))


def rotvec_to_rpy(rotvec: np.ndarray) -> np.ndarray:
    """Rotation vectors [..., 3] (rad) to roll, pitch, yaw [..., 3] (rad)."""
    return matrix_to_rpy(rotvec_to_matrix(rotvec))


def normalize_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """The same quaternions [..., 4] at length 1."""
    quaternion = np.asarray(quaternion, np.float64)
    return quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)


def quaternion_multiply(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The rotation `right` followed by `left`: Hamilton product of wxyz [..., 4]."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    w, v = left[..., :1], left[..., 1:]
    other_w, other_v = right[..., :1], right[..., 1:]
    scalar = w * other_w - np.sum(v * other_v, -1, keepdims=True)
    return np.concatenate([scalar, w * other_v + other_w * v + np.cross(v, other_v)], -1)


def quaternion_conjugate(quaternion: np.ndarray) -> np.ndarray:
    """The inverse rotation of unit quaternions wxyz [..., 4]."""
    return np.asarray(quaternion, np.float64) * np.array([1.0, -1.0, -1.0, -1.0])


def quaternion_rotate(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] turned by quaternions wxyz [..., 4]."""
    return (quaternion_to_matrix(quaternion) @ np.asarray(vector, np.float64)[..., None])[..., 0]


def wxyz_to_xyzw(quaternion: np.ndarray) -> np.ndarray:
    """Reorder [..., 4]."""
    return np.asarray(quaternion)[..., [1, 2, 3, 0]]


def pose_multiply(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Poses [..., 7]: `right`, given in the frame of `left`, in the frame that `left` is in."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    position = left[..., :3] + quaternion_rotate(left[..., 3:], right[..., :3])
    return np.concatenate([position, quaternion_multiply(left[..., 3:], right[..., 3:])], -1)


def pose_inverse(pose: np.ndarray) -> np.ndarray:
    """The poses [..., 7] with pose_multiply(pose_inverse(p), p) = identity."""
    pose = np.asarray(pose, np.float64)
    inverse = quaternion_conjugate(pose[..., 3:])
    return np.concatenate([-quaternion_rotate(inverse, pose[..., :3]), inverse], -1)


def _positive_w(quaternion: np.ndarray) -> np.ndarray:
    return np.where(quaternion[..., :1] < 0, -quaternion, quaternion)
