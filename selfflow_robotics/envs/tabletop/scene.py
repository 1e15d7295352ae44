"""The table scene of pick_coke_can as MJCF text, and its compiled model.

World frame = SIMPLER's: table top and footprint, can size, mass and friction as measured there
(ManiSkill2_real2sim envs/custom_scenes/base_env.py, grasp_single_in_scene.py and
data/custom/info_pick_custom_v0.json). Drawers, walls and floor are for the eye only.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

from selfflow_robotics.envs.tabletop import robot
from selfflow_robotics.envs.tabletop.backend import mujoco

# What `physics_fingerprint` covers.
_DECISIVE = (
    "scene.py",
    "robot.py",
    "control.py",
    "kinematics.py",
    "env.py",
    "success.py",
    "render.py",
)

CONTROL_HZ = 3
SUBSTEPS = 33  # physics steps in a control step
TIMESTEP = 1 / (CONTROL_HZ * SUBSTEPS)  # s

TABLE_TOP = 0.88753  # m
TABLE_X, TABLE_Y = (-0.61, 0.02), (-0.0975, 0.5175)  # footprint
_TABLE_THICKNESS = 0.022

CAN_RADIUS, CAN_LENGTH, CAN_MASS = 0.033, 0.1228, 0.01996
# The can's frame is that of SIMPLER's mesh: y is the long axis, +y the lid, and the middle of the
# can lies 7.6 mm below the origin.
CAN_MIDDLE_Y = -0.0076
CAN_FRICTION = 0.5
# How the can lies, as quaternion wxyz (simpler_env's lr_switch, laid_vertically, upright), and the
# height of its frame above the table.
VARIANTS = {
    "standing": ((0.7071067811865476, 0.7071067811865476, 0.0, 0.0), CAN_LENGTH / 2 - CAN_MIDDLE_Y),
    "horizontal": ((0.0, 0.0, 0.0, 1.0), CAN_RADIUS),
    "vertical": ((0.7071067811865476, 0.0, 0.0, 0.7071067811865476), CAN_RADIUS),
}

# Contact bits: 1 world, 2 object, 4 unused, 8 left finger. The robot touches the world and the
# object, and its right finger the left one; no other part of it touches another.
_WORLD = 'contype="1" conaffinity="0" group="0"'
_SEEN = 'contype="0" conaffinity="0" group="0"'  # for the eye only

_MATERIALS = {
    "table": "0.62 0.46 0.32",
    "edge": "0.40 0.29 0.21",
    "front": "0.74 0.60 0.49",
    "gap": "0.20 0.15 0.12",
    "black": "0.05 0.03 0.03",
    "floor": "0.62 0.47 0.33",
    "wall": "0.47 0.34 0.26",
    "side": "0.20 0.13 0.10",
    "shell": "0.78 0.75 0.71",
    "tendon": "0.45 0.42 0.38",
    "finger": "0.86 0.62 0.34",
    "red": "0.80 0.07 0.08",
    "white": "0.93 0.91 0.90",
    "metal": "0.74 0.74 0.72",
}


def _seen_box(low: tuple[float, ...], high: tuple[float, ...], material: str, kind=_SEEN) -> str:
    position = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    half = [(b - a) / 2 for a, b in zip(low, high, strict=True)]
    return (
        f'<geom type="box" pos="{robot.numbers(position)}" size="{robot.numbers(half)}" '
        f'material="{material}" {kind}/>'
    )


def _furniture() -> str:
    (x0, x1), (y0, y1), bottom = TABLE_X, TABLE_Y, TABLE_TOP - _TABLE_THICKNESS
    middle, front = (y0 + y1) / 2, x1 - 0.03
    parts = [
        _seen_box((x0, y0, bottom), (x1, y1, TABLE_TOP), "table", _WORLD),
        _seen_box((x1, y0, bottom), (x1 + 0.001, y1, TABLE_TOP - 0.002), "edge"),
        _seen_box((x0 + 0.02, y0 + 0.03, 0), (front - 0.02, y1 - 0.03, bottom), "gap", _WORLD),
    ]
    for top in (0.835, 0.60, 0.35):
        parts.append(
            _seen_box((front - 0.02, y0 + 0.04, top - 0.19), (front, y1 - 0.04, top), "front")
        )
        parts.append(
            f'<geom type="capsule" fromto="{front + 0.03} {middle - 0.05} {top - 0.06} '
            f'{front + 0.03} {middle + 0.05} {top - 0.06}" size="0.006" material="black" {_SEEN}/>'
        )
    return "".join(parts)


def _room() -> str:
    """Floor, walls and posts, each a body of its own: ray casts skip bodies by their bounds."""
    solids = [
        _seen_box((-1.6, -2.0, -0.02), (1.0, 2.4, 0), "floor"),
        _seen_box((-1.05, -2.0, 0), (-1.0, 2.4, 2.2), "wall"),
        _seen_box((-1.0, 0.17, 0), (-0.97, 0.23, 2.2), "black"),
        _seen_box((-1.0, -1.05, 0), (-0.2, -1.0, 1.8), "side"),
        _seen_box((-1.0, 1.35, 0), (-0.2, 1.40, 1.8), "side"),
        _seen_box((-0.55, -0.55, 0), (-0.50, -0.50, 1.5), "black"),
        _seen_box((-0.55, 0.92, 0), (-0.50, 0.97, 1.5), "black"),
    ]
    return "".join(f"<body>{solid}</body>" for solid in solids)


def _can() -> str:
    """The can: one solid to touch, thin ends and a band to look at."""
    along = 'quat="0.7071067811865476 -0.7071067811865476 0 0"'  # a cylinder's z becomes y
    half, end = CAN_LENGTH / 2, 0.006
    seen = 'contype="0" conaffinity="0" mass="0"'
    ends = "".join(
        f'<geom type="cylinder" pos="0 {CAN_MIDDLE_Y + side * (half - end / 2)} 0" '
        f'size="{CAN_RADIUS + 0.0002} {end / 2 + 0.0002}" {along} material="metal" {seen}/>'
        for side in (-1, 1)
    )
    return f"""
<body name="object">
  <freejoint name="object"/>
  <geom name="object" type="cylinder" pos="0 {CAN_MIDDLE_Y} 0" {along} material="red"
        size="{CAN_RADIUS} {half}" mass="{CAN_MASS}" friction="{CAN_FRICTION} 0.005 0.002"
        condim="6" contype="2" conaffinity="1"/>
  {ends}
  <geom type="cylinder" pos="0 {CAN_MIDDLE_Y + 0.022} 0" size="{CAN_RADIUS + 0.0003} 0.006"
        {along} material="white" {seen}/>
</body>"""


def scene_mjcf() -> str:
    """MJCF text of the whole scene.

    The "discrete" integrator is what makes grasps hold: others solve contacts as if the drives'
    strong damping were not there.
    """
    materials = "".join(
        f'<material name="{name}" rgba="{rgb} 1" specular="0.1"/>'
        for name, rgb in _MATERIALS.items()
    )
    return f"""<mujoco model="tabletop">
<compiler angle="radian" autolimits="true"/>
<option timestep="{TIMESTEP!r}" integrator="discrete" cone="elliptic"
        impratio="10"/>
<visual><headlight ambient="0.35 0.35 0.35" diffuse="0.1 0.1 0.1" specular="0 0 0"/>
<quality shadowsize="1024" offsamples="4"/><map znear="0.02" zfar="10"/></visual>
<default><geom group="1" condim="4"/><joint armature="0.01"/></default>
<asset>{materials}</asset>
<worldbody>
<light name="lamp" pos="0.0 0.38 2.6" dir="-0.1 -0.1 -1" diffuse="0.75 0.75 0.75"
       specular="0 0 0" cutoff="80" castshadow="true"/>
{_room()}<body name="table">{_furniture()}</body>{robot.robot_body()}{_can()}
</worldbody>
<contact><exclude body1="gripper" body2="finger_right"/><exclude body1="gripper"
body2="finger_left"/></contact>
<actuator>{robot.robot_actuators(TIMESTEP)}</actuator>
</mujoco>"""


@lru_cache(maxsize=1)
def load_model():
    """The compiled scene (MjModel), shared by all environments: nobody may change its physics."""
    return mujoco.MjModel.from_xml_string(scene_mjcf())


def physics_fingerprint() -> str:
    """SHA-256 over the source text of everything that decides motion, success and pictures.

    The scene alone would not do: limits of the controllers, settings of the inverse kinematics, the
    success rule and the ray renderer's lights are in none of its lines. A mere comment changes it.
    """
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in _DECISIVE)).hexdigest()
