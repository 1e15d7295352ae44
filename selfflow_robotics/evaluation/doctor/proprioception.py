"""Evidence without a simulator: how well the recorded actions explain the recorded motion.

The arm follows its commands with a lag: what the tool moves in a step is a sum of the commands of
this step and the ones before, each times a gain, and the gains add up to what the robot's
controller lets the arm do (`FOLLOWS`). The gripper closes and opens some steps after it is told to.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from selfflow_robotics.evaluation.doctor.recordings import Recording
from selfflow_robotics.robot.actions import GRIPPER
from selfflow_robotics.robot.rotations import rpy_to_rotvec

# The share of a constant command that the tool moves per control step: translation, rotation.
# Measured in SIMPLER, whose controllers were identified on the real robots.
FOLLOWS: dict[str, tuple[float, float]] = {"google_robot": (0.25, 0.25), "widowx": (0.95, 1.0)}
_LAGS = 4  # steps of commands that move the arm, this one included
_GRIPPER_LAGS = 6


def unexplained(recordings: Sequence[Recording], robot: str) -> np.ndarray:
    """[3]: the motion of the tool, its rotation and the gripper that the actions do not explain.

    The first two as shares of the motion (root mean square; 0: all is explained), the third as the
    mean difference of commanded and recorded closedness.
    """
    moved, told, turned, wanted = [], [], [], []
    for one in recordings:
        place, tool = one.proprio[:, :3], Rotation.from_quat(one.proprio[:, 3:7])
        moved.append(np.diff(place, axis=0))
        told.append(_lagged(one.actions[:-1, :3]) * one.hold)
        turned.append((tool[1:] * tool[:-1].inv()).as_rotvec())
        wanted.append(_lagged(rpy_to_rotvec(one.actions[:-1, 3:6])) * one.hold)
    by_translation, by_rotation = FOLLOWS[robot]
    return np.array(
        [
            _residual(np.concatenate(moved), np.concatenate(told), by_translation),
            _residual(np.concatenate(turned), np.concatenate(wanted), by_rotation),
            min(_disagreement(recordings, lag) for lag in range(_GRIPPER_LAGS)),
        ]
    )


def _lagged(commands: np.ndarray) -> np.ndarray:
    """Commands [T, 3] as [T, LAGS, 3]: of each step, and of the steps before (zero: none)."""
    padded = np.concatenate([np.zeros((_LAGS - 1, 3)), commands])
    return np.stack([padded[_LAGS - 1 - lag : len(padded) - lag] for lag in range(_LAGS)], axis=1)


def _residual(moved: np.ndarray, told: np.ndarray, total: float) -> float:
    """What is left of the motion [N, 3] after the lagged commands [N, LAGS, 3], as a share.

    The gains of the lags are the least-squares fit among those that add up to `total`.
    """
    rest = moved - total * told[:, 0]
    later = told[:, 1:] - told[:, :1]
    columns = later.transpose(0, 2, 1).reshape(-1, _LAGS - 1)
    gains, *_ = np.linalg.lstsq(columns, rest.reshape(-1), rcond=None)
    left = rest.reshape(-1) - columns @ gains
    return float(np.sqrt(np.mean(left**2) / max(np.mean(moved**2), 1e-12)))


def _disagreement(recordings: Sequence[Recording], lag: int) -> float:
    """Mean difference of the commanded closedness and the recorded one `lag` steps later."""
    parts = []
    for one in recordings:
        closed, seen = 1.0 - one.actions[:, GRIPPER], one.proprio[:, 7]
        parts.append(np.abs(closed[: len(one) - lag] - seen[lag:]))
    return float(np.concatenate(parts).mean())
