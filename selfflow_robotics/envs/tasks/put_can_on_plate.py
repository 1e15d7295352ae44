"""Put the can on a plate. SIMPLER has no such task; it runs on the tabletop."""

import math
from dataclasses import dataclass

from selfflow_robotics.envs.tasks.base import (
    TABLE_BASE_XY,
    Choice,
    Episode,
    Placed,
    Range,
    Scene,
    Task,
)
from selfflow_robotics.envs.tasks.objects import COKE_CAN, UNTURNED, Body, Rest, Shape
from selfflow_robotics.envs.tasks.plan import Pick, Place
from selfflow_robotics.envs.tasks.rules import MIN_IMPULSE, Seen

_RADIUS_M, _THICKNESS_M = 0.075, 0.012
_PLATE = Body(
    "plate",
    size=(2 * _RADIUS_M, 2 * _RADIUS_M, _THICKNESS_M),
    shapes=(Shape("cylinder", (_RADIUS_M, _THICKNESS_M / 2), (0.93, 0.93, 0.90), mass=0.3),),
    rests={"flat": Rest(UNTURNED, _THICKNESS_M / 2)},
)
# Grasp a lying can below its middle, so that the fingers do not slide off its round top.
_LYING_AIM_BELOW_M = 0.007


class PutCanOnPlate(Task):
    """`variant` is the can's orientation; `object_xy`, `plate_xy`: positions (m, world)."""

    name = "put_can_on_plate"
    max_episode_steps = 80
    starts = {  # noqa: RUF012
        "variant": Choice(tuple(COKE_CAN.rests)),
        "object_xy": Range((-0.30, -0.02), (-0.15, 0.09)),
        "plate_xy": Range((-0.30, 0.31), (-0.15, 0.37)),
    }
    bodies = (COKE_CAN, _PLATE)
    targets = ("object_position", "gripper", "tool_position")

    def instructions(self, episode: Episode) -> tuple[str, ...]:
        return ("put coke can on plate",)

    def scene(self, episode: Episode) -> Scene:
        (x, y), (plate_x, plate_y) = episode["object_xy"], episode["plate_xy"]
        can = Placed(COKE_CAN, (x, y), COKE_CAN.rests[episode["variant"]])
        plate = Placed(_PLATE, (plate_x, plate_y), _PLATE.rests["flat"])
        return Scene((can, plate), base_xy=TABLE_BASE_XY)

    def rule(self, episode: Episode, settled: Seen) -> "OnPlateRule":
        return OnPlateRule()

    def plan(self, episode: Episode) -> tuple[Pick | Place, ...]:
        return (Pick(lying_aim_below_m=_LYING_AIM_BELOW_M), Place(higher_m=_THICKNESS_M))


@dataclass
class OnPlateRule:
    """The can is over the plate and touches nothing else: the gripper has let go."""

    stage: int = 0

    def update(self, seen: Seen) -> dict:
        """After a control step: `success` and its conditions."""
        touch = seen.touches[0]
        offset = seen.poses[0][:2] - seen.poses[1][:2]
        impulses = [math.hypot(*impulse) for side in touch.fingers for impulse, _ in side]
        stats = {
            "over_plate": math.hypot(*offset) < _RADIUS_M,
            "on_plate_alone": touch.others == {_PLATE.name},
            "let_go": max(impulses) < MIN_IMPULSE,
        }
        return {"success": all(stats.values()), "episode_stats": stats}
