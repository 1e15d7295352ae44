"""The three formats of a robot action, and conversions between them.

| name        | layout                                                        | used by    |
|-------------|---------------------------------------------------------------|------------|
| RT-1        | world_vector [3] m, rotation_delta [3] roll pitch yaw rad,    | data sets  |
|             | gripper_closedness_action [1]: +1 close, -1 open, 0 no change | on disk    |
| policy      | [7]: world_vector, rotation_delta (rpy), gripper 1 open,      | networks,  |
|             | 0 closed (a state to be in, not a change)                     | statistics |
| environment | [7]: translation m, rotation vector rad, gripper +1 close,    | simulators |
|             | -1 open, 0 no change (`envs.base`)                            |            |

Displacements are in the robot's base frame, for one control step (what they are relative to is the
robot's, `envs.base`). `robot.bridge` has the format of WidowX's data sets on disk. The policy
layout is the common one for Open X-Embodiment (Octo, OpenVLA: `rt1_dataset_transform`).
"""

import numpy as np

from selfflow_robotics.robot.rotations import rotvec_to_rpy, rpy_to_rotvec

ACTION_DIM = 7
ARM = slice(0, 6)
GRIPPER = 6
# Stored gripper commands below this are noise around "no change" (Octo, OpenVLA).
_GRIPPER_DEAD_ZONE = 0.1


def policy_from_rt1(
    world_vector: np.ndarray, rotation_delta: np.ndarray, gripper_closedness_action: np.ndarray
) -> np.ndarray:
    """RT-1 actions of a whole episode, [T, 3], [T, 3], [T, 1], as policy vectors float32 [T, 7].

    The relative gripper becomes a state by carrying the last command forward. Before the first
    command, the gripper is assumed to be in the opposite state; without commands, open. Commands
    that are not finite become NaN.
    """
    command = np.asarray(gripper_closedness_action).reshape(-1)
    gripper = np.where(np.isfinite(command), _open_from_relative(command), np.nan)
    arm = np.concatenate([world_vector, rotation_delta], axis=-1)
    return np.concatenate([arm, gripper[:, None]], axis=-1).astype(np.float32)


def rt1_from_policy(
    vectors: np.ndarray, open_before: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Policy vectors [T, 7] of a whole episode as RT-1 arrays float32 [T, 3], [T, 3], [T, 1].

    `open_before` is the gripper's state before the first step: open at the start of an episode, but
    maybe not if its start was cut off. A closed first step gives "close" in both cases, since
    readers such as `policy_from_rt1` assume an open gripper in episodes without commands.
    """
    vectors = np.asarray(vectors, np.float32)
    is_open = vectors[:, GRIPPER] > 0.5
    first = open_before | ~is_open[:1]
    before = np.concatenate([first, is_open[:-1]])
    relative = before.astype(np.float32) - is_open.astype(np.float32)
    return vectors[:, 0:3], vectors[:, 3:6], relative[:, None]


def environment_from_policy(vectors: np.ndarray) -> np.ndarray:
    """Policy vectors [..., 7] as environment actions float32 [..., 7].

    Every step has a gripper command: -1 if the policy says open (> 0.5), else +1.
    """
    vectors = np.asarray(vectors)
    gripper = np.where(vectors[..., GRIPPER:] > 0.5, -1.0, 1.0)
    parts = [vectors[..., 0:3], rpy_to_rotvec(vectors[..., 3:6]), gripper]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def policy_from_environment(actions: np.ndarray) -> np.ndarray:
    """Environment actions of whole episodes, [..., T, 7], as policy vectors float32 [..., T, 7].

    The inverse of `environment_from_policy`. The gripper starts open; a positive command closes it,
    a negative one opens it and 0 keeps its state.
    """
    actions = np.asarray(actions)
    command = actions[..., GRIPPER]
    # The index of the last step that gave a command, -1 before the first.
    steps = np.where(command != 0, np.arange(command.shape[-1]), -1)
    last = np.maximum.accumulate(steps, axis=-1)
    is_open = (last < 0) | (np.take_along_axis(command, np.maximum(last, 0), -1) < 0)
    parts = [actions[..., 0:3], rotvec_to_rpy(actions[..., 3:6]), is_open[..., None]]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def _open_from_relative(command: np.ndarray) -> np.ndarray:
    """Relative closing commands [T] to the state [T]: 1 open, 0 closed."""
    given = np.abs(command) > _GRIPPER_DEAD_ZONE
    opens = (command < 0).astype(np.float32)
    if not given.any():
        return np.ones(len(command), np.float32)
    # The index of the last step that gave a command, -1 before the first.
    last = np.maximum.accumulate(np.where(given, np.arange(len(command)), -1))
    return np.where(last >= 0, opens[last], 1 - opens[np.argmax(given)])
