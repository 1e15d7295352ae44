"""WidowX's workplaces as MJCF: a table, or a sink with a basket, after SIMPLER's photographs.

The table's height is as measured in SIMPLER (stage bridge_table_1_v1), its visible edges as in the
photograph. The sink's floors, walls and rim are boxes at the heights of SIMPLER's mesh
(data/custom/models/sink); the basket's floor is at the height where SIMPLER's invisible target
comes to rest.
"""

from selfflow_robotics.envs.tabletop.mjcf import box_between

TABLE_TOP = 0.869532  # m
SINK_FLOOR, BASKET_FLOOR = 0.9203, 0.9345
_RIM, _COUNTER = 0.978, 0.885

# Contact bits: see scene.py. These stand still.
_WORLD = 'contype="1" conaffinity="0" group="0"'
_SEEN = 'contype="0" conaffinity="0" group="0"'  # visual only

MATERIALS = {
    "table": "0.60 0.27 0.17",
    "cloth": "0.45 0.48 0.52",
    "floor": "0.20 0.28 0.36",
    "sink": "0.55 0.71 0.76",
    "basket": "0.90 0.78 0.42",
    "counter": "0.66 0.50 0.30",
    "wall": "0.55 0.45 0.42",
    "dark": "0.10 0.12 0.20",
    "metal": "0.52 0.49 0.46",
    "black": "0.05 0.04 0.04",
}


def table() -> str:
    """The table, a body of that name, and cloth walls around it."""
    top = box_between((-0.345, -0.29, TABLE_TOP - 0.025), (0.03, 0.55, TABLE_TOP), "table", _WORLD)
    others = (
        box_between((-1.6, -1.5, 0.28), (1.2, 1.8, 0.30), "floor", _SEEN),
        box_between((-0.42, -1.2, 0.3), (-0.40, 1.6, 1.9), "cloth", _SEEN),
        box_between((-0.40, -0.62, 0.3), (0.10, -0.60, 1.9), "cloth", _SEEN),
    )
    return _bodies("table", top, others)


def sink() -> str:
    """The sink, a body of that name: a basin for the eggplant and one with the basket in it."""
    back, front, left, right = -0.297, -0.022, -0.073, 0.325  # outer edges, seen by the robot
    parts = [
        _block((back, left), (-0.213, right), _RIM),
        # SIMPLER's front wall slopes outwards from x = -0.062; this one is vertical, farther out.
        _block((-0.045, left), (front, right), _RIM),
        _block((-0.213, left), (-0.045, -0.022), _RIM),
        _block((-0.213, 0.092), (-0.045, 0.105), _RIM),
        _block((-0.213, 0.300), (-0.045, right), _RIM),
        _block((-0.213, 0.105), (-0.045, 0.300), SINK_FLOOR),
        _block((-0.213, -0.022), (-0.045, 0.092), BASKET_FLOOR, "basket"),
    ]
    # The basket: a rim that overlaps the sink's, and sides.
    x0, x1, y0, y1, top = -0.213, -0.045, -0.022, 0.092, 0.985
    for low, high in (
        ((x0 - 0.012, y0 - 0.012), (x0 + 0.002, y1 + 0.008)),
        ((x1 - 0.002, y0 - 0.012), (x1 + 0.012, y1 + 0.008)),
        ((x0, y0 - 0.012), (x1, y0 + 0.002)),
        ((x0, y1 - 0.002), (x1, y1 + 0.008)),
    ):
        parts.append(box_between((*low, 0.936), (*high, top), "basket", _SEEN))
    drain = (
        f'<geom type="cylinder" pos="-0.135 0.2 {SINK_FLOOR}" size="0.012 0.001" '
        f'material="black" {_SEEN}/>'
    )
    others = (
        box_between((-0.70, -0.70, 0.60), (0.12, 0.90, _COUNTER), "counter", _WORLD),
        box_between((-0.72, -1.2, 0.0), (-0.70, 1.4, 1.9), "wall", _SEEN),
        box_between((-0.42, 0.03, _COUNTER), (-0.34, 0.16, 1.25), "dark", _SEEN),
        box_between((-0.285, 0.19, _RIM), (-0.225, 0.27, 0.992), "metal", _SEEN),
        f'<geom type="cylinder" pos="-0.26 0.22 1.07" size="0.012 0.09" material="metal" {_SEEN}/>',
        drain,
    )
    return _bodies("sink", "".join(parts), others)


def _block(low: tuple[float, float], high: tuple[float, float], top: float, material="sink") -> str:
    """A block of the sink from the counter up to `top`, between two corners (xy)."""
    return box_between((*low, _COUNTER), (*high, top), material, _WORLD)


def _bodies(name: str, parts: str, others: tuple[str, ...]) -> str:
    """A body that objects collide with, and one body for each other part, since ray casts skip
    bodies by their bounds."""
    return f'<body name="{name}">{parts}</body>' + "".join(f"<body>{one}</body>" for one in others)
