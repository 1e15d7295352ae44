"""Statistics of a data set's actions, and the scale on which networks see them.

Arm dimensions go to [-1, 1] by their 1 % and 99 % quantiles and are clipped there, because real
recordings hold outliers (fractal's largest world_vector is 22 m); the gripper stays in {0, 1}. The
JSON layout is that of OpenVLA's `dataset_statistics.json`, one data set's entry.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.actions import ACTION_DIM

# The smallest half range per arm dimension: 1 cm and 0.05 rad. A task that hardly uses an axis (a
# vertical grasp needs no roll) would otherwise have its noise blown up to the full range.
_HALF_RANGE_FLOOR = np.array([0.01] * 3 + [0.05] * 3)
_MASK = [True] * 6 + [False]


@dataclass(frozen=True, eq=False)
class NormStats:
    """Statistics of policy vectors (`robot.actions`) over all steps, each float64 [7]."""

    q01: np.ndarray
    q99: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    num_transitions: int
    num_episodes: int

    @classmethod
    def compute(cls, actions: np.ndarray, num_episodes: int = 0) -> "NormStats":
        """From policy vectors [N, 7]. Raises UserError when there are none or one is not finite."""
        actions = np.asarray(actions, np.float64)
        if len(actions) == 0 or not np.isfinite(actions).all():
            raise UserError(
                "the action statistics need at least one step and finite actions only; "
                "leave the damaged episodes out of the data set"
            )
        q01, q99 = np.quantile(actions, [0.01, 0.99], axis=0)
        return cls(q01, q99, actions.mean(0), actions.std(0), len(actions), num_episodes)

    def to_json(self) -> dict[str, Any]:
        """OpenVLA's keys, JSON-able."""
        keys = ("mean", "std", "q01", "q99")
        action = {key: getattr(self, key).tolist() for key in keys} | {"mask": _MASK}
        return {
            "action": action,
            "num_transitions": self.num_transitions,
            "num_trajectories": self.num_episodes,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "NormStats":
        """From OpenVLA's keys, or Octo's (p01, p99). Raises UserError for missing or bad values."""
        action = value.get("action")
        if not isinstance(action, dict):
            raise UserError("action statistics: no entry 'action'; give one data set's entry")
        arrays = {}
        for key, other in (("q01", "p01"), ("q99", "p99"), ("mean", "mean"), ("std", "std")):
            array = np.asarray(action.get(key, action.get(other, [])), np.float64)
            if array.shape != (ACTION_DIM,) or not np.isfinite(array).all():
                raise UserError(f"action statistics: '{key}' must be {ACTION_DIM} finite numbers")
            arrays[key] = array
        return cls(
            **arrays,
            num_transitions=int(value.get("num_transitions", 0)),
            num_episodes=int(value.get("num_trajectories", 0)),
        )


class ActionNormalizer:
    """Policy vectors to the network's scale and back, for numpy arrays and torch tensors alike."""

    def __init__(self, stats: NormStats) -> None:
        arm = slice(0, 6)
        self.centre = np.zeros(ACTION_DIM)
        self.half_range = np.ones(ACTION_DIM)
        self.centre[arm] = (stats.q01[arm] + stats.q99[arm]) / 2
        self.half_range[arm] = np.maximum((stats.q99[arm] - stats.q01[arm]) / 2, _HALF_RANGE_FLOOR)
        self.limit = np.array([1.0] * 6 + [np.inf])

    def normalize(self, actions: Any, clip: bool = True) -> Any:
        """Policy vectors [..., 7], floating, to arm in [-1, 1], gripper as it is; beyond that only
        without `clip`."""
        scaled = (actions - _like(actions, self.centre)) / _like(actions, self.half_range)
        limit = _like(actions, self.limit)
        return scaled.clip(-limit, limit) if clip else scaled

    def unnormalize(self, actions: Any) -> Any:
        """The inverse (but for the clipping): network scale [..., 7] to metres and radians."""
        return actions * _like(actions, self.half_range) + _like(actions, self.centre)


def _like(actions: Any, constant: np.ndarray) -> Any:
    """The constant in the kind, precision and device of `actions`, without importing torch."""
    if isinstance(actions, np.ndarray):
        return constant.astype(actions.dtype)
    return actions.new_tensor(constant.tolist())
