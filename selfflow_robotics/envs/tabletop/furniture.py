"""The google robot's workplaces as MJCF: a room, and a table or a cabinet with drawers.

The table's top and footprint are as measured in SIMPLER (ManiSkill2_real2sim
envs/custom_scenes/base_env.py); its drawers are visual only, like walls and floor. The cabinet's
drawers slide, with SIMPLER's joints and shapes (`envs.tasks.cabinet`). As in SIMPLER, its handles
have no collision shape: a drawer is opened by its front plate.
"""

from selfflow_robotics.envs.tabletop.mjcf import box, box_between, numbers
from selfflow_robotics.envs.tasks import cabinet
from selfflow_robotics.envs.tasks.base import DRAWERS

TABLE_TOP = 0.88753  # m
TABLE_X, TABLE_Y = (-0.61, 0.02), (-0.0975, 0.5175)  # footprint
_TABLE_THICKNESS = 0.022

# Contact bits: see scene.py. Shapes of group 0 stand still, those of group 1 move.
_WORLD = 'contype="1" conaffinity="0" group="0"'
_SEEN = 'contype="0" conaffinity="0" group="0"'  # visual only
_SLIDING = 'contype="1" conaffinity="0" group="1"'
_SLIDING_SEEN = 'contype="0" conaffinity="0" group="1"'

# SIMPLER's joints of the cabinet.
_DRAWER_MASS, _DRAWER_FRICTION, _DRAWER_DAMPING = 11.38, 0.05, 1.0  # kg, N, N s / m

MATERIALS = {
    "table": "0.62 0.46 0.32",
    "edge": "0.40 0.29 0.21",
    "front": "0.74 0.60 0.49",
    "gap": "0.20 0.15 0.12",
    "black": "0.05 0.03 0.03",
    "floor": "0.62 0.47 0.33",
    "wall": "0.47 0.34 0.26",
    "side": "0.20 0.13 0.10",
}


def table() -> str:
    """The table, a body of that name."""
    (x0, x1), (y0, y1), bottom = TABLE_X, TABLE_Y, TABLE_TOP - _TABLE_THICKNESS
    middle, front = (y0 + y1) / 2, x1 - 0.03
    parts = [
        box_between((x0, y0, bottom), (x1, y1, TABLE_TOP), "table", _WORLD),
        box_between((x1, y0, bottom), (x1 + 0.001, y1, TABLE_TOP - 0.002), "edge", _SEEN),
        box_between((x0 + 0.02, y0 + 0.03, 0), (front - 0.02, y1 - 0.03, bottom), "gap", _WORLD),
    ]
    for top in (0.835, 0.60, 0.35):
        parts.append(
            box_between(
                (front - 0.02, y0 + 0.04, top - 0.19), (front, y1 - 0.04, top), "front", _SEEN
            )
        )
        parts.append(
            f'<geom type="capsule" fromto="{front + 0.03} {middle - 0.05} {top - 0.06} '
            f'{front + 0.03} {middle + 0.05} {top - 0.06}" size="0.006" material="black" {_SEEN}/>'
        )
    return f'<body name="table">{"".join(parts)}</body>'


def room() -> str:
    """Floor, walls and posts, each a body of its own: ray casts skip bodies by their bounds."""
    solids = [
        box_between((-1.6, -2.0, -0.02), (1.0, 2.4, 0), "floor", _SEEN),
        box_between((-1.05, -2.0, 0), (-1.0, 2.4, 2.2), "wall", _SEEN),
        box_between((-1.0, 0.17, 0), (-0.97, 0.23, 2.2), "black", _SEEN),
        box_between((-1.0, -1.05, 0), (-0.2, -1.0, 1.8), "side", _SEEN),
        box_between((-1.0, 1.35, 0), (-0.2, 1.40, 1.8), "side", _SEEN),
        box_between((-0.55, -0.55, 0), (-0.50, -0.50, 1.5), "black", _SEEN),
        box_between((-0.55, 0.92, 0), (-0.50, 0.97, 1.5), "black", _SEEN),
    ]
    return "".join(f"<body>{solid}</body>" for solid in solids)


def joint(drawer: str) -> str:
    """The name of a drawer's joint."""
    return f"{drawer}_drawer"


def drawer_cabinet() -> str:
    """The cabinet, a body of that name, with a sliding body for each of its drawers.

    A drawer's bottom plate is a body of its own, so that a rule can tell what lies on it.
    """
    wide, deep, thick = cabinet.WIDTH / 2, 0.295, 0.01
    parts = [
        box((-0.305, 0, 0.4225), (thick, wide, 0.4225), "front", _WORLD),
        box((0, -wide + thick, 0.4225), (deep, thick, 0.4225), "front", _WORLD),
        box((0, wide - thick, 0.4225), (deep, thick, 0.4225), "front", _WORLD),
        box((0, 0, 0.855), (0.315, wide, thick), "front", _WORLD),
    ]
    drawers = map(_drawer, DRAWERS, cabinet.ORIGINS)
    return (
        f'<body name="cabinet" pos="{numbers(cabinet.POSITION)}">'
        f"{''.join(parts)}{''.join(drawers)}</body>"
    )


def _drawer(name: str, height: float) -> str:
    half = (cabinet.FRONT_THICKNESS / 2, cabinet.WIDTH / 2, cabinet.FRONT_HEIGHT / 2)
    parts = [
        box((cabinet.FRONT_X, 0, 0), half, "front", _SLIDING),
        box((-0.285, 0, -0.02), (0.01, 0.2575, 0.05), "front", _SLIDING),
        box((0.285, 0, -0.02), (0.01, 0.2575, 0.05), "front", _SLIDING),
        box((0, -0.2675, -0.02), (0.295, 0.01, 0.05), "front", _SLIDING),
        box((0, 0.2675, -0.02), (0.295, 0.01, 0.05), "front", _SLIDING),
        box((0.3425, 0, 0.02), (0.0025, 0.05, 0.0025), "black", _SLIDING_SEEN),
        box((0.3325, -0.05, 0.02), (0.01, 0.0025, 0.0025), "black", _SLIDING_SEEN),
        box((0.3325, 0.05, 0.02), (0.01, 0.0025, 0.0025), "black", _SLIDING_SEEN),
    ]
    bottom = box((0, 0, -0.06), (0.275, 0.2575, 0.01), "front", _SLIDING)
    inertial = f'<inertial mass="{_DRAWER_MASS}" pos="0 0 0" diaginertia="0.4 0.4 0.7"/>'
    return f"""
<body name="{name}_drawer" pos="0 0 {height}">
  <joint name="{joint(name)}" type="slide" axis="1 0 0" range="0 {cabinet.TRAVEL}" armature="0"
         damping="{_DRAWER_DAMPING}" frictionloss="{_DRAWER_FRICTION}"/>
  {inertial}{"".join(parts)}
  <body name="{name}_drawer_bottom">{bottom}</body>
</body>"""
