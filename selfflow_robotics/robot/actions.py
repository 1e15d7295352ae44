"""The three ways to write one robot action, and the ways between them.

| name        | layout                                                        | used by    |
|-------------|---------------------------------------------------------------|------------|
| RT-1        | world_vector [3] m, rotation_delta [3] roll pitch yaw rad,    | data sets  |
|             | gripper_closedness_action [1]: +1 close, -1 open, 0 no change | on disk    |
| policy      | [7]: world_vector, rotation_delta (rpy), gripper 1 open,      | networks,  |
|             | 0 closed (a state to be in, not a change)                     | statistics |
| environment | [7]: translation m, rotation vector rad, gripper +1 close,    | simulators |
|             | -1 open, 0 go on (`envs.base`)                                |            |

Displacements are in the robot's base frame, relative to the tool pose, for one step at 3 Hz. The
policy layout is the one that the users of Open X-Embodiment share (Octo, OpenVLA:
`rt1_dataset_transform`).
"""

import numpy as np

from selfflow_robotics.robot.rotations import rotvec_to_rpy, rpy_to_rotvec

ACTION_DIM = 7
ARM = slice(0, 6)
GRIPPER = 6
# A stored gripper command weaker than this is sensor noise around "no change" (Octo, OpenVLA).
_GRIPPER_DEAD_ZONE = 0.1


def policy_from_rt1(
    world_vector: np.ndarray, rotation_delta: np.ndarray, gripper_closedness_action: np.ndarray
) -> np.ndarray:
    """One whole episode's RT-1 actions [T, 3], [T, 3], [T, 1] as policy vectors float32 [T, 7].

    The relative gripper becomes a state by carrying the last command forward; before the first
    command the gripper is taken to be in the opposite state, and open when there is none.
    """
    gripper = _open_from_relative(np.asarray(gripper_closedness_action).reshape(-1))
    arm = np.concatenate([world_vector, rotation_delta], axis=-1)
    return np.concatenate([arm, gripper[:, None]], axis=-1).astype(np.float32)


def rt1_from_policy(
    vectors: np.ndarray, open_before: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One whole episode's policy vectors [T, 7] as RT-1 arrays float32 [T, 3], [T, 3], [T, 1].

    `open_before` is the gripper's state before the first step: open when an episode begins, perhaps
    not where its beginning is cut off. A closed first step says "close" in either case, since
    readers (`policy_from_rt1` is one) take an episode without any command to be open.
    """
    vectors = np.asarray(vectors, np.float32)
    is_open = vectors[:, GRIPPER] > 0.5
    first = open_before | ~is_open[:1]
    before = np.concatenate([first, is_open[:-1]])
    relative = before.astype(np.float32) - is_open.astype(np.float32)
    return vectors[:, 0:3], vectors[:, 3:6], relative[:, None]


def environment_from_policy(vectors: np.ndarray) -> np.ndarray:
    """Policy vectors [..., 7] as environment actions float32 [..., 7].

    The gripper command is sent at every step: -1 where the policy says open (> 0.5), else +1.
    """
    vectors = np.asarray(vectors)
    gripper = np.where(vectors[..., GRIPPER:] > 0.5, -1.0, 1.0)
    parts = [vectors[..., 0:3], rpy_to_rotvec(vectors[..., 3:6]), gripper]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def policy_from_environment(actions: np.ndarray) -> np.ndarray:
    """Whole episodes' environment actions [..., T, 7] as policy vectors float32 [..., T, 7].

    The inverse of `environment_from_policy`. The gripper starts open; a positive command closes it,
    a negative one opens it and 0 keeps it as it is.
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
