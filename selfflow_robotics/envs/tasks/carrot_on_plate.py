"""SIMPLER's widowx_carrot_on_plate."""

from selfflow_robotics.envs.tasks.objects import Z_ALONG_X, Body, Rest, Shape
from selfflow_robotics.envs.tasks.put_on import TABLE, PutOnTableTask, about_z

_TURNS = {"lengthwise": about_z(180), "crosswise": about_z(-90)}

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


class CarrotOnPlate(PutOnTableTask):
    name = "carrot_on_plate"
    words = "put carrot on plate"
    turns = _TURNS
    bodies = (_CARROT, _PLATE)

    def __init__(self) -> None:
        self.simpler = self.binding(
            "PutCarrotOnPlateInScene-v0",
            ("bridge_carrot_generated_modified", "bridge_plate_objaverse_larger"),
            **TABLE,
        )
