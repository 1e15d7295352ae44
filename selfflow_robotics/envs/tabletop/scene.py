"""A task's scene on the table as MJCF text, and its compiled model.

World frame = SIMPLER's: table top and footprint as measured there (ManiSkill2_real2sim
envs/custom_scenes/base_env.py). Drawers, walls and floor are for the eye only.
"""

import hashlib
import inspect
from functools import lru_cache
from pathlib import Path

from selfflow_robotics.envs.tabletop import robot
from selfflow_robotics.envs.tabletop.backend import mujoco
from selfflow_robotics.envs.tasks.base import Scene, Task
from selfflow_robotics.envs.tasks.objects import Body, Shape

# What `physics_fingerprint` covers of the folder of simulators, besides the task.
_DECISIVE = (
    "tabletop/scene.py",
    "tabletop/robot.py",
    "tabletop/control.py",
    "tabletop/kinematics.py",
    "tabletop/env.py",
    "tabletop/render.py",
    "tasks/base.py",
    "tasks/rules.py",
    "episodes.py",
)

CONTROL_HZ = 3
SUBSTEPS = 33  # physics steps in a control step
TIMESTEP = 1 / (CONTROL_HZ * SUBSTEPS)  # s

TABLE_TOP = 0.88753  # m
TABLE_X, TABLE_Y = (-0.61, 0.02), (-0.0975, 0.5175)  # footprint
_TABLE_THICKNESS = 0.022

# Contact bits: 1 world, 2 object, 4 unused, 8 left finger. The robot touches the world and the
# objects, objects touch each other, and the robot's right finger touches the left one; no other
# part of it touches another.
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


def _shape(body: Body, shape: Shape) -> str:
    touch = 'contype="0" conaffinity="0"'
    if shape.mass:
        touch = f'contype="2" conaffinity="3" condim="6" friction="{body.friction} 0.005 0.002"'
    return (
        f'<geom type="{shape.kind}" size="{robot.numbers(shape.size)}" '
        f'pos="{robot.numbers(shape.position)}" quat="{robot.numbers(shape.quaternion)}" '
        f'material="{_material(shape)}" mass="{shape.mass!r}" {touch}/>'
    )


def _object(body: Body) -> str:
    shapes = "".join(_shape(body, shape) for shape in body.shapes)
    return f'<body name="{body.name}"><freejoint name="{body.name}"/>{shapes}</body>'


def _material(shape: Shape) -> str:
    return "rgb " + robot.numbers(shape.rgb)


def scene_mjcf(bodies: tuple[Body, ...], base: robot.Base) -> str:
    """MJCF text of the whole scene, with the objects `bodies` and the robot at `base`.

    The "discrete" integrator is what makes grasps hold: others solve contacts as if the drives'
    strong damping were not there.
    """
    shapes = [shape for body in bodies for shape in body.shapes]
    colours = _MATERIALS | {_material(shape): robot.numbers(shape.rgb) for shape in shapes}
    materials = "".join(
        f'<material name="{name}" rgba="{rgb} 1" specular="0.1"/>' for name, rgb in colours.items()
    )
    objects = "".join(map(_object, bodies))
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
{_room()}<body name="table">{_furniture()}</body>{robot.robot_body(base)}{objects}
</worldbody>
<contact><exclude body1="gripper" body2="finger_right"/><exclude body1="gripper"
body2="finger_left"/></contact>
<actuator>{robot.robot_actuators(TIMESTEP)}</actuator>
</mujoco>"""


def load_model(scene: Scene):
    """The compiled scene (MjModel), shared by all environments: nobody may change its physics."""
    return _compile(tuple(item.body for item in scene.objects), base_of(scene))


@lru_cache(maxsize=64)
def _compile(bodies: tuple[Body, ...], base: robot.Base):
    return mujoco.MjModel.from_xml_string(scene_mjcf(bodies, base))


def base_of(scene: Scene) -> robot.Base:
    """Where the robot stands."""
    return robot.Base((*scene.base_xy, robot.BASE_HEIGHT), scene.base_quaternion)


def physics_fingerprint(task: Task) -> str:
    """SHA-256 over everything that decides motion, success and pictures of a task: the source
    text of the simulator and of the task's own file, and the task's objects.

    The scene alone would not do: limits of the controllers, settings of the inverse kinematics, the
    success rule and the ray renderer's lights are in none of its lines. A mere comment changes it.
    Other tasks do not.
    """
    folder = Path(__file__).parents[1]
    sources = [(folder / name).read_bytes() for name in _DECISIVE]
    sources += [Path(inspect.getfile(type(task))).read_bytes(), repr(task.bodies).encode()]
    return hashlib.sha256(b"".join(sources)).hexdigest()
