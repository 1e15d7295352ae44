"""Action statistics of a data set, and action normalization.

The 1 % and 99 % quantiles of each arm dimension map to -1 and 1; the gripper stays in {0, 1}.
Predicted actions are clipped to that range, because real recordings have outliers (fractal's
largest world_vector is 22 m). Actions that a network conditions on are not clipped, because they
were executed. The JSON layout is that of an entry in OpenVLA's `dataset_statistics.json`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.actions import ACTION_DIM

# The smallest half range per arm dimension: 1 cm and 0.05 rad. Otherwise, noise on an axis that a
# task hardly uses (a vertical grasp needs no roll) would be scaled up to the full range.
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
        """From policy vectors [N, 7]. Raises UserError if there are none or one is not finite."""
        actions = np.asarray(actions, np.float64)
        if len(actions) == 0 or not np.isfinite(actions).all():
            raise UserError(
                "action statistics need at least one step and only finite actions; remove the "
                "damaged episodes from the data set"
            )
        q01, q99 = np.quantile(actions, [0.01, 0.99], axis=0)
        return cls(q01, q99, actions.mean(0), actions.std(0), len(actions), num_episodes)

    @classmethod
    def pooled(
        cls, parts: Sequence[np.ndarray], weights: Sequence[float], num_episodes: int = 0
    ) -> "NormStats":
        """Of a mixture: `parts` are the policy vectors [N, 7] of each data set and `weights` their
        shares of what is drawn. Raises UserError as `compute`."""
        if len(parts) == 1:
            return cls.compute(parts[0], num_episodes)
        actions = np.concatenate(parts).astype(np.float64)
        plain = cls.compute(actions, num_episodes)
        shares = np.asarray(weights) / sum(weights) / [len(part) for part in parts]
        weight = np.repeat(shares, [len(part) for part in parts])
        mean = np.average(actions, axis=0, weights=weight)
        std = np.sqrt(np.average((actions - mean) ** 2, axis=0, weights=weight))
        order = np.argsort(actions, axis=0)
        reached = np.cumsum(weight[order], axis=0)  # the share of actions up to each one
        q01, q99 = (
            np.array(
                [
                    actions[order[min(np.searchsorted(reached[:, n], q), len(order) - 1), n], n]
                    for n in range(actions.shape[1])
                ]
            )
            for q in (0.01, 0.99)
        )
        return replace(plain, q01=q01, q99=q99, mean=mean, std=std)

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
        action = value.get("action") if isinstance(value, dict) else None
        if not isinstance(action, dict):
            raise UserError("action statistics: no entry 'action'; pass the entry of one data set")
        arrays = {}
        for key, other in (("q01", "p01"), ("q99", "p99"), ("mean", "mean"), ("std", "std")):
            try:
                array = np.asarray(action.get(key, action.get(other, [])), np.float64)
            except (TypeError, ValueError, OverflowError):
                array = np.empty(0)
            if array.shape != (ACTION_DIM,) or not np.isfinite(array).all():
                raise UserError(f"action statistics: '{key}' must be {ACTION_DIM} finite numbers")
            arrays[key] = array
        counts = [value.get(key, 0) for key in ("num_transitions", "num_trajectories")]
        if not all(type(count) is int for count in counts):
            raise UserError(
                "action statistics: num_transitions and num_trajectories must be counts"
            )
        return cls(**arrays, num_transitions=counts[0], num_episodes=counts[1])


class ActionNormalizer:
    """Convert policy vectors to the network's scale and back, for numpy arrays and torch tensors.

    `normalize` is for conditioning actions (clean tokens) and is injective; `normalize_target` is
    for actions to predict (to be noised).
    """

    def __init__(self, stats: NormStats) -> None:
        arm = slice(0, 6)
        self.centre = np.zeros(ACTION_DIM)
        self.half_range = np.ones(ACTION_DIM)
        self.centre[arm] = (stats.q01[arm] + stats.q99[arm]) / 2
        self.half_range[arm] = np.maximum((stats.q99[arm] - stats.q01[arm]) / 2, _HALF_RANGE_FLOOR)
        self.limit = np.array([1.0] * 6 + [np.inf])

    def normalize(self, actions: Any) -> Any:
        """Policy vectors [..., 7], floating; the arm's quantiles map to -1 and 1, outliers beyond.
        The gripper is unchanged."""
        return (actions - _like(actions, self.centre)) / _like(actions, self.half_range)

    def normalize_target(self, actions: Any) -> Any:
        """The same with the arm clipped to [-1, 1]."""
        limit = _like(actions, self.limit)
        return self.normalize(actions).clip(-limit, limit)

    def unnormalize(self, actions: Any) -> Any:
        """The inverse of `normalize`: network scale [..., 7] to metres and radians."""
        return actions * _like(actions, self.half_range) + _like(actions, self.centre)


def _like(actions: Any, constant: np.ndarray) -> Any:
    """The constant with the type, precision and device of `actions`, without importing torch."""
    if isinstance(actions, np.ndarray):
        return constant.astype(actions.dtype)
    return actions.new_tensor(constant.tolist())
