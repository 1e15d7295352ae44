"""SIMPLER's widowx_carrot_on_plate."""

from selfflow_robotics.envs.tasks.base import Choice, Episode, Range
from selfflow_robotics.envs.tasks.objects import Z_ALONG_X, Body, Quaternion, Rest, Shape
from selfflow_robotics.envs.tasks.plan import Grasp, PutOn
from selfflow_robotics.envs.tasks.put_on import (
    PLACES,
    SHIFT_M,
    SHIFT_ROOM_M,
    TABLE,
    PutOnTask,
    about_z,
    corners,
)

_HALF_EDGE_M = 0.075
_TURNS = {"lengthwise": about_z(180), "crosswise": about_z(-90)}  # seen by the robot

_CARROT = Body(
    "carrot",
    size=(0.115, 0.032, 0.038),
    shapes=(
        Shape("capsule", (0.016, 0.0415), (0.95, 0.45, 0.10), (0, 0, 0), Z_ALONG_X, 0.0547),
        Shape(
            "capsule", (0.0125, 0.006), (0.20, 0.40, 0.15), (0.049, 0, 0), Z_ALONG_X
        ),  # its green
    ),
    rests={name: Rest(turn, 0.018) for name, turn in _TURNS.items()},
)
_PLATE = Body(
    "plate",
    size=(0.11, 0.11, 0.006),
    shapes=(Shape("cylinder", (0.055, 0.003), (0.80, 0.86, 0.55), mass=0.0392),),
    rests={"flat": Rest((1.0, 0.0, 0.0, 0.0), 0.003)},
)


class CarrotOnPlate(PutOnTask):
    """`variant` is the carrot's orientation, `places` the corners of a square for carrot and plate,
    `shift_xy` a shift of both (m)."""

    name = "carrot_on_plate"
    words = "put carrot on plate"
    starts = {  # noqa: RUF012
        "variant": Choice(tuple(_TURNS)),
        "places": Choice(tuple(PLACES)),
        "shift_xy": Range((-SHIFT_M, -SHIFT_M), (SHIFT_M, SHIFT_M), SHIFT_ROOM_M),
    }
    bodies = (_CARROT, _PLATE)
    grasp = Grasp()
    put = PutOn()

    def __init__(self) -> None:
        self.simpler = self.binding(
            "PutCarrotOnPlateInScene-v0",
            ("bridge_carrot_generated_modified", "bridge_plate_objaverse_larger"),
            **TABLE,
        )

    def places(self, episode: Episode) -> list[tuple[float, float]]:
        return corners(_HALF_EDGE_M, episode["places"], episode["shift_xy"])

    def turn(self, episode: Episode) -> Quaternion:
        return _TURNS[episode["variant"]]

    def grid(self) -> list[Episode]:
        """24 episodes: 12 pairs of corners x 2 turns."""
        return [
            {"variant": variant, "places": places, "shift_xy": [0.0, 0.0]}
            for places in PLACES
            for variant in self.variants
        ]
