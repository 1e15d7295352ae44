"""Objects to handle, built of primitive shapes, with SIMPLER's sizes, masses and frames.

The frame is that of SIMPLER's mesh: its y is the long axis of an elongated object, and a lying
object is one whose y is level. Lengths in metres, masses in kilograms.

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


@dataclass(frozen=True)
class Shape:
    """One primitive, sized as in MJCF (half lengths, radius first)."""

    kind: Literal["box", "cylinder", "sphere", "capsule", "ellipsoid"]
    size: tuple[float, ...]
    rgb: Vector
    position: Vector = (0.0, 0.0, 0.0)
    quaternion: Quaternion = UNTURNED
    mass: float = 0.0  # 0: for the eye only, nothing touches it


@dataclass(frozen=True)
class Rest:
    """A way to lie on a table: the turn of the object's frame and the height of its origin."""

    quaternion: Quaternion
    height: float


@dataclass(frozen=True)
class Body:
    """A rigid object. `rests` has its resting poses by name."""

    name: str
    shapes: tuple[Shape, ...]
    rests: dict[str, Rest]
    friction: float = 0.5

    def __hash__(self) -> int:  # compiled scenes are cached by their objects
        return hash(self.name)


_CAN_RADIUS, _CAN_LENGTH = 0.033, 0.1228
# +y is the lid, and the middle of the can lies 7.6 mm below the origin.
_CAN_MIDDLE = -0.0076
_CAN_END = 0.006  # length of the metal rings
_METAL, _WHITE = (0.74, 0.74, 0.72), (0.93, 0.91, 0.90)


def _can_ring(y: float, rgb: Vector, thicker: float, half: float) -> Shape:
    size = (_CAN_RADIUS + thicker, half)
    return Shape("cylinder", size, rgb, (0.0, y, 0.0), Z_ALONG_Y)


def _can(name: str, mass: float, rgb: Vector) -> Body:
    """A can: one solid to touch, thin ends and a band to look at."""
    half = _CAN_LENGTH / 2
    ends = (
        _can_ring(_CAN_MIDDLE + side * (half - _CAN_END / 2), _METAL, 0.0002, _CAN_END / 2 + 0.0002)
        for side in (-1, 1)
    )
    return Body(
        name,
        shapes=(
            Shape(
                "cylinder", (_CAN_RADIUS, half), rgb, (0.0, _CAN_MIDDLE, 0.0), Z_ALONG_Y, mass=mass
            ),
            *ends,
            _can_ring(_CAN_MIDDLE + 0.022, _WHITE, 0.0003, 0.006),
        ),
        rests={
            "standing": Rest((_HALF, _HALF, 0.0, 0.0), half - _CAN_MIDDLE),
            "horizontal": Rest((0.0, 0.0, 0.0, 1.0), _CAN_RADIUS),
            "vertical": Rest((_HALF, 0.0, 0.0, _HALF), _CAN_RADIUS),
        },
    )


COKE_CAN = _can("coke_can", 0.01996, (0.80, 0.07, 0.08))
