"""The conventions in which data sets differ, and how else each of them is read.

A reading is a function from the recording as this project reads it to the recording as it would be
if the data followed another convention. The right one is the reading whose actions explain the
recorded motion (`replay`, `proprioception`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from selfflow_robotics.data.rlds.schema import BRIDGE, FRACTAL
from selfflow_robotics.evaluation.doctor.recordings import Recording
from selfflow_robotics.robot.actions import GRIPPER, policy_from_rt1
from selfflow_robotics.robot.bridge import DOWN

Channel = Literal["position", "rotation", "gripper"]
CHANNELS: tuple[Channel, ...] = ("position", "rotation", "gripper")


@dataclass(frozen=True)
class Reading:
    """Another way to read a convention, which is the fault if it fits better."""

    name: str
    read: Callable[[Recording], Recording]
    mend: str  # how to convert such data
    needs_replay: bool = False  # the recorded motion alone does not tell it from the expected one


@dataclass(frozen=True)
class Convention:
    """`decides`: the kinds of motion that tell the readings apart."""

    name: str
    expected: str
    decides: tuple[Channel, ...]
    others: tuple[Reading, ...]
    layouts: tuple[str, ...] = (FRACTAL.name, BRIDGE.name)  # data with whose features have it


def gripper_reversed(one: Recording) -> Recording:
    """Open where closed is stored."""
    actions = one.actions.copy()
    actions[:, GRIPPER] = 1.0 - actions[:, GRIPPER]
    return replace(one, actions=actions)


def gripper_is_closed_state(one: Recording) -> Recording:
    """The stored number says how closed the gripper shall be, not how it changes."""
    return _with_open(one, one.gripper_command < 0.5)


def gripper_is_open_state(one: Recording) -> Recording:
    """The stored number says how open the gripper shall be, not how it changes."""
    return _with_open(one, one.gripper_command > 0.5)


def gripper_is_change(one: Recording) -> Recording:
    """The stored number says how the gripper changes (+1 closes), not how open it shall be."""
    arm, command = one.actions[:, :6], one.gripper_command[:, None]
    return replace(one, actions=policy_from_rt1(arm[:, :3], arm[:, 3:], command).astype(np.float64))


def gripper_seen_open(one: Recording) -> Recording:
    """The recorded state of the gripper is 1 where it is open."""
    proprio = one.proprio.copy()
    proprio[:, 7] = 1.0 - proprio[:, 7]
    return replace(one, proprio=proprio)


def rotation_is_vector(one: Recording) -> Recording:
    """The rotation is a rotation vector."""
    actions = one.actions.copy()
    actions[:, 3:6] = Rotation.from_rotvec(actions[:, 3:6]).as_euler("xyz")
    return replace(one, actions=actions)


def action_in_tool_frame(one: Recording) -> Recording:
    """Displacement and rotation are about the tool's axes."""
    actions, tool = one.actions.copy(), Rotation.from_quat(one.proprio[:, 3:7])
    actions[:, :3] = tool.apply(actions[:, :3])
    turned = tool * Rotation.from_euler("xyz", actions[:, 3:6]) * tool.inv()
    actions[:, 3:6] = turned.as_euler("xyz")
    return replace(one, actions=actions)


def quaternion_is_wxyz(one: Recording) -> Recording:
    """The recorded quaternion has its real part first."""
    proprio = one.proprio.copy()
    proprio[:, 3:7] = proprio[:, [4, 5, 6, 3]]
    return replace(one, proprio=proprio)


def state_is_absolute(one: Recording) -> Recording:
    """The recorded rotation is in the base frame, not relative to pointing straight down."""
    proprio = one.proprio.copy()
    proprio[:, 3:7] = (Rotation.from_quat(proprio[:, 3:7]) * DOWN.inv()).as_quat()
    return replace(one, proprio=proprio)


def at_half_rate(one: Recording) -> Recording:
    """Every other step is missing, so that an action lasts two control steps."""
    return replace(one, hold=2 * one.hold)


def at_double_rate(one: Recording) -> Recording:
    """There are two recorded steps to a control step."""
    even = len(one) - len(one) % 2
    arm = one.actions[:even, :6].reshape(-1, 2, 6).sum(axis=1)
    actions = np.concatenate([arm, one.actions[1:even:2, GRIPPER:]], axis=1)
    commands = one.gripper_command[1:even:2]
    return replace(one, actions=actions, proprio=one.proprio[:even:2], gripper_command=commands)


def _with_open(one: Recording, is_open: np.ndarray) -> Recording:
    actions = one.actions.copy()
    actions[:, GRIPPER] = is_open
    return replace(one, actions=actions)


CONVENTIONS: tuple[Convention, ...] = (
    Convention(
        "gripper action",
        "+1 closes, -1 opens, 0 changes nothing",
        ("gripper",),
        (
            Reading(
                "the other sign (+1 opens)",
                gripper_reversed,
                "negate gripper_closedness_action",
            ),
            Reading(
                "a state (1 closed, 0 open)",
                gripper_is_closed_state,
                "store its changes: +1 where it closes, -1 where it opens, else 0",
            ),
            Reading(
                "a state (1 open, 0 closed)",
                gripper_is_open_state,
                "store its changes: +1 where it closes, -1 where it opens, else 0",
            ),
        ),
        (FRACTAL.name,),
    ),
    Convention(
        "gripper action",
        "a state (1 open, 0 closed)",
        ("gripper",),
        (
            Reading(
                "the other sign (1 closed, 0 open)",
                gripper_reversed,
                "store 1 - x for the gripper, the last number of the action",
            ),
            Reading(
                "a change (+1 closes, -1 opens)",
                gripper_is_change,
                "store the state: 1 from a step that opens, 0 from a step that closes",
            ),
        ),
        (BRIDGE.name,),
    ),
    Convention(
        "gripper state",
        "0 open to 1 closed",
        ("gripper",),
        (
            Reading(
                "1 open (Bridge's way)",
                gripper_seen_open,
                "store 1 - x for observation/gripper_closed",
            ),
        ),
        (FRACTAL.name,),
    ),
    Convention(
        "gripper state",
        "1 open to 0 closed",
        ("gripper",),
        (
            Reading(
                "1 closed (RT-1's way)",
                gripper_seen_open,
                "store 1 - x for the gripper, the last number of observation/state",
            ),
        ),
        (BRIDGE.name,),
    ),
    Convention(
        "rotation action",
        "roll, pitch, yaw",
        ("rotation",),
        (
            Reading(
                "a rotation vector",
                rotation_is_vector,
                "convert it to roll, pitch, yaw (robot.rotations.rotvec_to_rpy)",
            ),
        ),
    ),
    Convention(
        "frame of the action",
        "the robot's base",
        ("position", "rotation"),
        (
            Reading(
                "the tool",
                action_in_tool_frame,
                "rotate displacement and rotation by the recorded rotation of the tool",
            ),
        ),
    ),
    Convention(
        "quaternion order",
        "xyzw",
        ("rotation",),
        (
            Reading(
                "wxyz",
                quaternion_is_wxyz,
                "move the first number of base_pose_tool_reached's quaternion to its end",
            ),
        ),
        (FRACTAL.name,),
    ),
    Convention(
        "zero of the state's rotation",
        "pointing straight down",
        ("rotation",),
        (
            Reading(
                "the base frame",
                state_is_absolute,
                "store the rotation relative to pointing down (robot.bridge.state_from_proprio)",
            ),
        ),
        (BRIDGE.name,),
    ),
    Convention(
        "control rate",
        "the robot's",
        ("position",),
        (
            Reading(
                "half of it (steps are missing)",
                at_half_rate,
                "record every control step: actions of dropped steps cannot be recovered",
            ),
            Reading(
                "twice it",
                at_double_rate,
                "add up the arm's actions of each two steps and keep every other frame",
                needs_replay=True,  # twice the command and twice the motion
            ),
        ),
    ),
)
