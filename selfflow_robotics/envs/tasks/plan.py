"""The skills of which a task composes its expert's plan; `policies.expert` carries them out.

Objects are numbered as in the task's scene.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Pick:
    """Grasp an object from above, across its long axis, lift it and keep it."""

    item: int = 0
    # Aim this far below the origin of an object that lies (m).
    lying_aim_below_m: float = 0.0
    is_round: bool = False  # without a long axis: it always lies, and any side is as good
    long_axis: Literal["x", "y"] = "y"  # of the object's frame
    # So thin that the lower one of tilted fingers meets the table first: come from nearer above.
    is_flat: bool = False


@dataclass(frozen=True)
class Place:
    """Carry the object that the hand holds to another one, let go, and retreat upwards."""

    item: int = 0
    to: int = 1
    # How far from the middle of the other to let go, on the side that the object comes from (m).
    distance_m: float = 0.0
    higher_m: float = 0.0  # than the object stood before


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
    """Let the object that the hand holds fall into a drawer that stands open, and retreat."""

    item: int
    drawer: int


@dataclass(frozen=True)
class Hover:
    """Go to a place and hold the open hand still there, turned as for a grasp from above."""

    until_step: int  # of the episode, there or not
    place_m: tuple[float, float, float]  # of the tool, xyz in the world


@dataclass(frozen=True)
class Grasp:
    """With WidowX: grasp an object from straight above, along `across` of its frame, lift it."""

    item: int = 0
    across: Literal["y", "x or y"] = "y"  # the closing direction
    along_m: float = 0.0  # where to grasp: this far along the object's x from its origin
    below_m: float = 0.0  # and this far below it
    lift_m: float = 0.09


@dataclass(frozen=True)
class PutOn:
    """With WidowX: put the object that the hand holds on another one, let go, and go up."""

    item: int = 0
    to: int = 1
    above_m: float = 0.03  # between their origins, when the hand lets go
    lift_m: float = 0.09  # above that on the way


Skill = Pick | Place | Pull | Push | PutInto | Hover | Grasp | PutOn
