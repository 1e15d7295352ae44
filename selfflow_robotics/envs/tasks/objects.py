"""Objects made of primitive shapes, with SIMPLER's sizes, masses and frames.

The frame is that of SIMPLER's mesh: y is the long axis of a can or a bottle, so these lie on their
side if y is horizontal. Some objects are long along x and lie in every pose. Lengths are in metres,
masses in kilograms.

Source of the numbers: ManiSkill2_real2sim data/custom/info_pick_custom_v0.json and
envs/custom_scenes/grasp_single_in_scene.py.
"""

from dataclasses import dataclass
from typing import Literal

Quaternion = tuple[float, float, float, float]  # wxyz
Vector = tuple[float, float, float]

_HALF = 0.7071067811865476
UNTURNED: Quaternion = (1.0, 0.0, 0.0, 0.0)
Z_ALONG_Y: Quaternion = (_HALF, -_HALF, 0.0, 0.0)  # a shape's z is the object's y
Z_ALONG_X: Quaternion = (_HALF, 0.0, _HALF, 0.0)


@dataclass(frozen=True)
class Shape:
    """One primitive, sized as in MJCF (half lengths, radius first)."""

    kind: Literal["box", "cylinder", "sphere", "capsule", "ellipsoid"]
    size: tuple[float, ...]
    rgb: Vector
    position: Vector = (0.0, 0.0, 0.0)
    quaternion: Quaternion = UNTURNED
    mass: float = 0.0  # 0: visual only, without collisions


@dataclass(frozen=True)
class Rest:
    """A resting pose on a surface: the rotation of the frame and the height of its origin."""

    quaternion: Quaternion
    height: float


@dataclass(frozen=True)
class Body:
    """A rigid object. `rests` has its resting poses by name."""

    name: str
    size: Vector  # bounding box in its frame
    shapes: tuple[Shape, ...]
    rests: dict[str, Rest]
    friction: float = 0.5

    def __hash__(self) -> int:  # compiled scenes are cached by their objects
        return hash(self.name)


# Rotations of a body whose y axis points up, and of one that lies on its side.
UPRIGHT: Quaternion = (_HALF, _HALF, 0.0, 0.0)
LYING_ACROSS: Quaternion = (0.0, 0.0, 0.0, 1.0)
LYING_ALONG: Quaternion = (_HALF, 0.0, 0.0, _HALF)

_RING = 0.006  # length of a can's metal ends
_METAL, _WHITE = (0.74, 0.74, 0.72), (0.93, 0.91, 0.90)


def can(
    name: str,
    mass: float,
    rgb: Vector,
    *,
    radius: float = 0.033,
    length: float = 0.1228,
    middle: float = 0.0,
) -> Body:
    """A can whose lid is at +y: one collision shape, with ends and a band that are only visual.

    middle: y of the can's centre in its frame.
    """
    half = length / 2

    def ring(y: float, rgb: Vector, thicker: float, half: float) -> Shape:
        return Shape("cylinder", (radius + thicker, half), rgb, (0.0, y, 0.0), Z_ALONG_Y)

    ends = (
        ring(middle + side * (half - _RING / 2), _METAL, 0.0002, _RING / 2 + 0.0002)
        for side in (-1, 1)
    )
    return Body(
        name,
        size=(2 * radius, length, 2 * radius),
        shapes=(
            Shape("cylinder", (radius, half), rgb, (0.0, middle, 0.0), Z_ALONG_Y, mass=mass),
            *ends,
            ring(middle + 0.022, _WHITE, 0.0003, 0.006),
        ),
        rests=_rests(half - middle, radius),
    )


def ball(name: str, radius: float, mass: float, rgb: Vector) -> Body:
    """A ball."""
    return Body(
        name,
        size=(2 * radius, 2 * radius, 2 * radius),
        shapes=(Shape("sphere", (radius,), rgb, mass=mass),),
        rests=_rests(radius, radius),
    )


def _rests(standing: float, lying: float) -> dict[str, Rest]:
    """The three resting poses by name, from the height of the origin when standing and lying."""
    return {
        "standing": Rest(UPRIGHT, standing),
        "horizontal": Rest(LYING_ACROSS, lying),
        "vertical": Rest(LYING_ALONG, lying),
    }


def cuboid(name: str, size: Vector, mass: float, rgb: Vector) -> Body:
    """A box."""
    x, y, z = (side / 2 for side in size)
    return Body(
        name,
        size=size,
        shapes=(Shape("box", (x, y, z), rgb, mass=mass),),
        rests=_rests(y, z),
    )


def rod(name: str, length: float, radius: float, mass: float, rgb: Vector) -> Body:
    """A rod with round ends whose long axis is x, so that it lies in all three poses."""
    shape = Shape("capsule", (radius, length / 2 - radius), rgb, quaternion=Z_ALONG_X, mass=mass)
    return Body(
        name,
        size=(length, 2 * radius, 2 * radius),
        shapes=(shape,),
        rests=_rests(radius, radius),
    )


def apple(mass: float = 0.0536) -> Body:
    """SIMPLER's apple, whose mass differs between tasks."""
    return ball("apple", 0.036, mass, (0.65, 0.10, 0.15))


def plastic_bottle() -> Body:
    """SIMPLER's blue plastic bottle."""
    return can("blue_plastic_bottle", 0.0285, (0.15, 0.35, 0.80), radius=0.030, length=0.174)


def redbull_can(mass: float = 0.0169) -> Body:
    """SIMPLER's, slimmer and taller; the models of its tasks differ in mass."""
    return can("redbull_can", mass, (0.60, 0.62, 0.70), radius=0.02925, length=0.13)


COKE_CAN = can("coke_can", 0.01996, (0.80, 0.07, 0.08), middle=-0.0076)
PEPSI_CAN = can("pepsi_can", 0.0204, (0.05, 0.15, 0.55))
