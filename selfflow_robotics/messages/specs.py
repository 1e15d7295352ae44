"""What the numbers of an action mean, as servers and clients tell each other at the handshake.

A spec has the layout of vla-eval's `DimSpec` (src/vla_eval/specs.py): a map from component to
`{name, dims, format}`, plus an optional range and description. The components of an action, in
order:

| component | dims | formats                                                                  |
|-----------|------|--------------------------------------------------------------------------|
| position  | 3    | delta_xyz: metres, in the robot's base frame                             |
| rotation  | 3    | euler_xyz: roll, pitch, yaw; axis_angle: rotation vector (both radians)  |
| gripper   | 1    | see `GRIPPERS`                                                           |

`OPENPI` is what openpi's servers for Bridge and fractal return by convention (the policy format of
`robot.actions`); `vla_eval_spec` is what vla-eval's SIMPLER benchmark executes.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.actions import ACTION_DIM, ARM, GRIPPER
from selfflow_robotics.robot.rotations import rotvec_to_rpy, rpy_to_rotvec

ROTATION = slice(3, 6)
ROTATIONS = ("euler_xyz", "axis_angle")


class Fingers(NamedTuple):
    """The numbers that mean open and closed."""

    open: float
    closed: float


GRIPPERS = {
    "binary_open_01": Fingers(1, 0),
    "binary_close_01": Fingers(0, 1),
    "binary_close_positive": Fingers(-1, 1),
    "binary_close_negative": Fingers(1, -1),
}


@dataclass(frozen=True)
class ActionSpec:
    """The format of actions [n, 7] on the wire, and conversions from and to the environment's
    (`envs.base`: rotation vector, gripper +1 close, -1 open, 0 as before)."""

    rotation: str = "euler_xyz"
    gripper: str = "binary_open_01"

    def to_json(self) -> dict[str, Any]:
        """The spec as servers send it."""
        fingers = GRIPPERS[self.gripper]
        return {
            "position": {"name": "position", "dims": 3, "format": "delta_xyz"},
            "rotation": {"name": "rotation", "dims": 3, "format": self.rotation},
            "gripper": {
                "name": "gripper",
                "dims": 1,
                "format": self.gripper,
                "range": sorted(map(float, fingers)),
            },
        }

    @classmethod
    def from_json(cls, value: Any, server: str) -> "ActionSpec":
        """The spec that `server` sent. Raises UserError if this robot cannot execute it."""
        choices = {"position": ("delta_xyz",), "rotation": ROTATIONS, "gripper": tuple(GRIPPERS)}
        if not isinstance(value, dict) or set(value) != set(choices):
            found = ", ".join(map(str, value)) if isinstance(value, dict) else value
            raise UserError(
                f"{server} returns actions of {found}; expected position, rotation and gripper"
            )
        formats = {}
        for name, known in choices.items():
            part = value[name] if isinstance(value[name], dict) else {}
            dims, formats[name] = 1 if name == "gripper" else 3, part.get("format")
            if part.get("dims") != dims or formats[name] not in known:
                raise UserError(
                    f"{server} returns {name} as {part.get('format')} with {part.get('dims')} "
                    f"numbers; this robot takes {' or '.join(known)} with {dims}"
                )
        return cls(formats["rotation"], formats["gripper"])

    def to_environment(self, vectors: np.ndarray) -> np.ndarray:
        """Actions [n, 7] from the wire as environment actions float32 [n, 7]. An action that is not
        finite becomes NaN altogether."""
        vectors = np.asarray(vectors, np.float64)
        vectors = np.where(np.isfinite(vectors).all(1, keepdims=True), vectors, np.nan)
        fingers, gripper = GRIPPERS[self.gripper], vectors[:, GRIPPER:]
        is_open = abs(gripper - fingers.open) < abs(gripper - fingers.closed)
        command = np.where(np.isnan(gripper), np.nan, np.where(is_open, -1.0, 1.0))
        actions = np.concatenate([vectors[:, ARM], command], axis=1)
        finite = np.isfinite(actions).all(1)
        if self.rotation == "euler_xyz" and finite.any():
            actions[finite, ROTATION] = rpy_to_rotvec(actions[finite, ROTATION])
        return actions.astype(np.float32)

    def from_environment(
        self, actions: np.ndarray, was_open: bool = True
    ) -> tuple[np.ndarray, bool]:
        """(float32 [n, 7] for the wire, whether the gripper is told to be open at the end) of
        environment actions [n, 7]; `was_open`: before the first."""
        vectors, fingers = np.array(actions, np.float32), GRIPPERS[self.gripper]
        for vector in vectors:
            was_open = vector[GRIPPER] < 0 or (vector[GRIPPER] == 0 and was_open)
            vector[GRIPPER] = fingers.open if was_open else fingers.closed
        if self.rotation == "euler_xyz":
            vectors[:, ROTATION] = rotvec_to_rpy(vectors[:, ROTATION])
        return vectors, bool(was_open)


OPENPI = ActionSpec("euler_xyz", "binary_open_01")


def vla_eval_spec(robot: str | None) -> ActionSpec:
    """The actions of vla-eval's SIMPLER benchmark (`gripper_mode=binary`), which passes rotation
    vectors and the gripper on to SIMPLER: +1 closes the google robot's and opens WidowX's."""
    is_widowx = robot == "widowx"
    return ActionSpec(
        "axis_angle", "binary_close_negative" if is_widowx else "binary_close_positive"
    )


def check_actions(actions: Any, who: str) -> np.ndarray:
    """Actions as an array [n, 7], n >= 1. Raises UserError for another shape or type."""
    try:
        array: np.ndarray = np.asarray(actions)
    except ValueError:  # lists of several lengths
        array = np.empty(0, object)
    is_chunk = array.ndim == 2 and array.shape[1] == ACTION_DIM and len(array)
    if array.dtype.kind not in "iuf" or not is_chunk:
        raise UserError(
            f"{who} returned actions of {array.dtype} {list(array.shape)}; expected numbers [n, "
            f"{ACTION_DIM}]"
        )
    return array
