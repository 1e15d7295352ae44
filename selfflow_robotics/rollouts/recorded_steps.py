"""From what was observed and done in an episode to the steps of an RLDS record."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from selfflow_robotics.robot.actions import GRIPPER, policy_from_environment, rt1_from_policy


def recorded_steps(
    observations: Sequence[dict[str, Any]],
    executed: Sequence[np.ndarray] | np.ndarray,
    success: bool,
    labels: Sequence[np.ndarray | None] | None = None,
) -> list[dict[str, Any]]:
    """The steps for `RldsWriter.write_episode`.

    Args:
        observations: before each action (`envs.base`); a last one after them is not used.
        executed: environment actions float32 [7] from the episode's start.
        success: at the end, where the last step has the reward.
        labels: the actions to record instead, None for steps that are not recorded; by default the
            executed ones.
    """
    labels = list(executed) if labels is None else labels
    # Unrecorded steps have also moved the gripper.
    told = [done if label is None else label for done, label in zip(executed, labels, strict=True)]
    vectors = policy_from_environment(np.stack(told))
    kept = [t for t, label in enumerate(labels) if label is not None]
    open_before = kept[0] == 0 or vectors[kept[0] - 1, GRIPPER] > 0.5
    world_vector, rotation_delta, gripper = rt1_from_policy(vectors[kept], bool(open_before))
    return [
        {
            **observations[t],
            "world_vector": world_vector[row],
            "rotation_delta": rotation_delta[row],
            "gripper_closedness_action": gripper[row],
            "terminate": row == len(kept) - 1,
            "reward": float(row == len(kept) - 1 and success),
        }
        for row, t in enumerate(kept)
    ]
