"""SIMPLER's widowx_spoon_on_towel."""

from selfflow_robotics.envs.tasks.objects import Z_ALONG_X, Body, Rest, Shape
from selfflow_robotics.envs.tasks.plan import Grasp, PutOn
from selfflow_robotics.envs.tasks.put_on import TABLE, PutOnTableTask, about_z

_TURNS = {"lengthwise": about_z(0), "crosswise": about_z(90)}
_HANDLE, _BOWL = (0.50, 0.72, 0.15), (0.72, 0.74, 0.74)

_SPOON = Body(
    "spoon",
    size=(0.14, 0.0346, 0.026),
    shapes=(
        Shape("capsule", (0.0105, 0.0345), _HANDLE, (0.022, 0, 0), Z_ALONG_X, 0.030),
        Shape("ellipsoid", (0.026, 0.0175, 0.008), _BOWL, (-0.047, 0, -0.002), mass=0.013),
    ),
    rests={name: Rest(turn, 0.0105) for name, turn in _TURNS.items()},
)
_TOWEL = Body(
    "towel",
    size=(0.10, 0.10, 0.01),
    shapes=(Shape("box", (0.05, 0.05, 0.005), (0.55, 0.65, 0.80), mass=0.0267),),
    rests={"flat": Rest((1.0, 0.0, 0.0, 0.0), 0.005)},
)


class SpoonOnTowel(PutOnTableTask):
    name = "spoon_on_towel"
    words = "put the spoon on the towel"
    may_touch_others = True
    turns = _TURNS
    bodies = (_SPOON, _TOWEL)
    # By the handle, which is thick, and not so low that the fingers meet the table.
    grasp = Grasp(along_m=0.03, below_m=-0.010)
    put = PutOn(above_m=0.02)

    def __init__(self) -> None:
        self.simpler = self.binding(
            "PutSpoonOnTableClothInScene-v0",
            ("bridge_spoon_generated_modified", "table_cloth_generated_shorter"),
            **TABLE,
        )
