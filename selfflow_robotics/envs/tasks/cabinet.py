"""Positions of SIMPLER's cabinet and its drawers, for the tabletop and the experts.

Source: ManiSkill2_real2sim data/custom/mk_station_recolor.urdf and
envs/custom_scenes/open_drawer_in_scene.py. Lengths in metres, world frame unless said otherwise;
drawers slide along x, towards the robot, and are numbered as in `tasks.base.DRAWERS`.
"""

POSITION = (-0.295, 0.0, 0.017)  # of the cabinet's frame
WIDTH = 0.615  # along y
SURFACE = POSITION[2] + 0.865  # z of the top, on which objects stand
EDGE_X = POSITION[0] + 0.315  # of the top, towards the robot
ORIGINS = (0.668, 0.423, 0.178)  # z of the drawers' frames in the cabinet's
TRAVEL = 0.5  # range of a drawer
FRONT_X, FRONT_THICKNESS, FRONT_HEIGHT = 0.305, 0.015, 0.14  # front plate, in the drawer's frame


def front(drawer: int, opening: float) -> tuple[float, float, float]:
    """The middle of a drawer's outer face (xyz) when it is open by `opening`."""
    x, y, z = POSITION
    return x + FRONT_X + FRONT_THICKNESS / 2 + opening, y, z + ORIGINS[drawer]


def upper_edge(drawer: int, opening: float) -> tuple[float, float, float]:
    """The middle of the upper edge of a drawer's front plate (xyz) when open by `opening`."""
    x, y, z = front(drawer, opening)
    return x - FRONT_THICKNESS / 2, y, z + FRONT_HEIGHT / 2
