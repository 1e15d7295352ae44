"""Skills, the steps of a scripted expert's plan. `policies.expert` executes them.

A task returns them from `Task.plan`. `item` and `to` are indices into the scene's objects.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Pick:
    """Grasp an object from above, across its long axis, lift it and keep it."""

    item: int = 0
    # Aim this far below the origin of an object that lies (m).
    lying_aim_below_m: float = 0.0
    is_round: bool = False  # no long axis: grasp it from any side; counts as lying
    long_axis: Literal["x", "y"] = "y"  # of the object's frame
    # For flat objects: approach more steeply, or the lower finger hits the table first.
    is_flat: bool = False


@dataclass(frozen=True)
class Place:
    """Carry the grasped object to another one, let go, and retreat upwards."""

    item: int = 0
    to: int = 1
    # Let go this far from the centre of the other object, on the side that this one comes from (m).
    distance_m: float = 0.0
    higher_m: float = 0.0  # height above where the object stood before (m)


@dataclass(frozen=True)
class Pull:
    """Hook a drawer's front from above and pull it open."""

    drawer: int  # in `tasks.base.DRAWERS`


@dataclass(frozen=True)
class Push:
    """Push a drawer shut with the closed gripper."""

    drawer: int


@dataclass(frozen=True)
class PutInto:
    """Drop the grasped object into an open drawer, and retreat."""

    item: int
    drawer: int


@dataclass(frozen=True)
class Hover:
    """Move the open gripper to a place and wait there, oriented for a grasp from above."""

    until_step: int  # of the episode; then the next skill begins, even if the place is not reached
    place_m: tuple[float, float, float]  # tool position, xyz in the world


@dataclass(frozen=True)
class Grasp:
    """With WidowX: grasp an object from straight above and lift it."""

    item: int = 0
    across: Literal["y", "x or y"] = "y"  # the fingers close along this axis of the object's frame
    along_m: float = 0.0  # grasp this far along the object's x from its origin
    below_m: float = 0.0  # ... and this far below it
    lift_m: float = 0.09


@dataclass(frozen=True)
class PutOn:
    """With WidowX: put the grasped object on another one, let go, and move up."""

    item: int = 0
    to: int = 1
    above_m: float = 0.03  # height of the object's origin above the other's when let go
    lift_m: float = 0.09  # carry it this much higher


Skill = Pick | Place | Pull | Push | PutInto | Hover | Grasp | PutOn
