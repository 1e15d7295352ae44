"""SIMPLER's widowx_put_eggplant_in_basket: from one side of a sink into a basket on the other."""

from itertools import product

import numpy as np

from selfflow_robotics.envs.tasks.base import Choice, Episode, Range
from selfflow_robotics.envs.tasks.objects import (
    UNTURNED,
    Z_ALONG_X,
    Body,
    Quaternion,
    Rest,
    Shape,
)
from selfflow_robotics.envs.tasks.plan import Grasp, PutOn
from selfflow_robotics.envs.tasks.put_on import PutOnTask, about_z

_TURNS = {"straight": about_z(0), "left": about_z(45), "right": about_z(-45)}
_X_M, _Y_M, _GRID_POINTS = (-0.115, -0.095), (0.191, 0.221), (2, 4)
_ROOM_M = 0.01  # to the walls of the sink
_BASKET_XY = (-0.125, 0.025)

_EGGPLANT = Body(
    "eggplant",
    size=(0.0783, 0.0374, 0.038),
    shapes=(Shape("capsule", (0.0187, 0.0205), (0.30, 0.10, 0.35), (0, 0, 0), Z_ALONG_X, 0.0209),),
    rests={name: Rest(turn, 0.0187) for name, turn in _TURNS.items()},
)
# The floor of the basket: a heavy plate, hidden in SIMPLER too.
_BASKET = Body(
    "basket",
    size=(0.13, 0.08, 0.002),
    shapes=(Shape("box", (0.065, 0.04, 0.001), (0.90, 0.80, 0.10), mass=2.08),),
    rests={"flat": Rest(UNTURNED, 0.001)},
)


class PutEggplantInBasket(PutOnTask):
    """`variant` is the eggplant's rotation, `object_xy` its initial position (m, world)."""

    name = "put_eggplant_in_basket"
    words = "put eggplant into yellow basket"
    max_episode_steps = 120
    clearance_m = 0.06
    may_touch_others = True
    starts = {  # noqa: RUF012
        "variant": Choice(tuple(_TURNS)),
        "object_xy": Range((_X_M[0], _Y_M[0]), (_X_M[1], _Y_M[1]), _ROOM_M),
    }
    bodies = (_EGGPLANT, _BASKET)
    grasp = Grasp(lift_m=0.11)
    put = PutOn(above_m=0.05, lift_m=0.08)
    base_xy = (0.127, 0.06)
    station = "sink"

    def __init__(self) -> None:
        self.simpler = self.binding(
            "PutEggplantInBasketScene-v0",
            ("eggplant", "dummy_sink_target_plane", "sink"),
            stage="bridge_table_1_v2",
            overlay="real_inpainting/bridge_sink.png",
            settings={"robot": "widowx_sink_camera_setup"},
        )

    def places(self, episode: Episode) -> list[tuple[float, float]]:
        x, y = episode["object_xy"]
        return [(x, y), _BASKET_XY]

    def turn(self, episode: Episode) -> Quaternion:
        return _TURNS[episode["variant"]]

    def grid(self) -> list[Episode]:
        """24 episodes: 2 x 4 positions x 3 turns."""
        xs, ys = (
            np.linspace(*ends, number).round(6).tolist()
            for ends, number in zip((_X_M, _Y_M), _GRID_POINTS, strict=True)
        )
        return [
            {"variant": variant, "object_xy": [x, y]}
            for x, y, variant in product(xs, ys, self.variants)
        ]
