"""SIMPLER's widowx_stack_cube."""

from selfflow_robotics.envs.tasks.base import Choice, Episode, Range
from selfflow_robotics.envs.tasks.objects import UNTURNED, Body, Rest, Shape, Vector
from selfflow_robotics.envs.tasks.plan import Grasp, PutOn
from selfflow_robotics.envs.tasks.put_on import (
    PLACES,
    SHIFT_M,
    SHIFT_ROOM_M,
    TABLE,
    PutOnTask,
    corners,
)

_EDGE_M, _MASS = 0.03, 0.027
_HALF_EDGES_M = {"near": 0.05, "far": 0.1}  # of the square on whose corners the cubes stand


def _cube(name: str, rgb: Vector) -> Body:
    half = _EDGE_M / 2
    rest = Rest(UNTURNED, half)
    return Body(
        name,
        size=(_EDGE_M, _EDGE_M, _EDGE_M),
        shapes=(Shape("box", (half, half, half), rgb, mass=_MASS),),
        rests={"flat": rest, **dict.fromkeys(_HALF_EDGES_M, rest)},
    )


class StackCube(PutOnTask):
    """`variant` is the size of a square, `places` its corners for the green and the yellow cube,
    `shift_xy` a shift of both (m)."""

    name = "stack_cube"
    words = "stack the green block on the yellow block"
    starts = {  # noqa: RUF012
        "variant": Choice(tuple(_HALF_EDGES_M)),
        "places": Choice(tuple(PLACES)),
        "shift_xy": Range((-SHIFT_M, -SHIFT_M), (SHIFT_M, SHIFT_M), SHIFT_ROOM_M),
    }
    bodies = (_cube("green_cube", (0.10, 0.60, 0.15)), _cube("yellow_cube", (0.90, 0.80, 0.10)))
    grasp = Grasp(across="x or y", below_m=-0.004)
    put = PutOn(above_m=_EDGE_M + 0.003)

    def __init__(self) -> None:
        self.simpler = self.binding(
            "StackGreenCubeOnYellowCubeBakedTexInScene-v0",
            ("baked_green_cube_3cm", "baked_yellow_cube_3cm"),
            **TABLE,
        )

    def places(self, episode: Episode) -> list[tuple[float, float]]:
        half_edge_m = _HALF_EDGES_M[episode["variant"]]
        return corners(half_edge_m, episode["places"], episode["shift_xy"])

    def grid(self) -> list[Episode]:
        """24 episodes: 2 squares x 12 pairs of corners."""
        return [
            {"variant": variant, "places": places, "shift_xy": [0.0, 0.0]}
            for variant in self.variants
            for places in PLACES
        ]
