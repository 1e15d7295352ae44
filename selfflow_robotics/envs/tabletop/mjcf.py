"""Helpers for writing MJCF: numbers, rotations, boxes, and the pose of a robot's base."""

import math
from dataclasses import dataclass

import numpy as np

CAMERA = "overhead"  # the name of every robot's camera


# Attributes of a robot's shapes: which others they can touch (see scene.py). The camera sees geom
# group 1, but not group 2, the robot's parts around it.
TOUCH_ARM = 'contype="0" conaffinity="3"'
TOUCH_RIGHT = 'contype="0" conaffinity="11"'
TOUCH_LEFT = 'contype="8" conaffinity="3"'
NO_TOUCH = 'contype="0" conaffinity="0"'


@dataclass(frozen=True)
class Link:
    """One moving link of an arm: its joint and what hangs on it."""

    name: str
    position: tuple[float, float, float]
    axis: str
    limits: tuple[float, float]
    mass: float
    center: tuple[float, float, float]
    inertia: tuple[float, float, float]  # about the centre of mass, kg m^2
    geoms: str


@dataclass(frozen=True)
class Base:
    """The pose of the robot's base in the world (wxyz)."""

    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]
    station: str = "table"  # `envs.tasks.base.Scene.station`


def numbers(values) -> str:
    """Numbers as MJCF attribute text, without losing digits."""
    return " ".join(repr(float(value)) for value in values)


def rpy_quaternion(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Fixed-axis roll, pitch, yaw (URDF) as a quaternion wxyz."""
    cr, cp, cy = (math.cos(angle / 2) for angle in (roll, pitch, yaw))
    sr, sp, sy = (math.sin(angle / 2) for angle in (roll, pitch, yaw))
    return np.array(
        [
            cr * cp * cy + sr * sp * sy,
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
        ]
    )


def box(middle, half, material: str, more: str) -> str:
    """A box geom by its middle [3] and half lengths [3] (m); more: further attributes."""
    return (
        f'<geom type="box" pos="{numbers(middle)}" size="{numbers(half)}" '
        f'material="{material}" {more}/>'
    )


def box_between(low, high, material: str, more: str) -> str:
    """A box geom between two corners [3] (m)."""
    middle = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    half = tuple((b - a) / 2 for a, b in zip(low, high, strict=True))
    return box(middle, half, material, more)


def drive(
    joint: str, stiffness: float, damping: float, limit: float | None, timestep_lag: float
) -> str:
    """SAPIEN's drive of a joint: torque = stiffness (target - q) - damping q', at most `limit`.

    A joint this strongly damped creeps to its target with the time constant damping / stiffness.
    Implicit springs make that longer by half a physics step, ours as SAPIEN's. timestep_lag: half
    of SAPIEN's step less half of ours (s), by which a little less damping makes up for it.
    """
    damping += timestep_lag * stiffness
    force = "" if limit is None else f' forcerange="{-limit} {limit}"'
    return (
        f'<general name="{joint}" joint="{joint}" gainprm="{stiffness!r}" biastype="affine" '
        f'biasprm="0 {-stiffness!r} {-damping!r}"{force}/>'
    )
