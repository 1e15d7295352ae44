"""A task's scene on the table or the cabinet as MJCF text, and its compiled model.

World frame = SIMPLER's.
"""

import hashlib
import inspect
from functools import lru_cache
from pathlib import Path

from selfflow_robotics.envs.tabletop import furniture, robot
from selfflow_robotics.envs.tabletop.backend import mujoco
from selfflow_robotics.envs.tasks import cabinet
from selfflow_robotics.envs.tasks.base import Scene, Task
from selfflow_robotics.envs.tasks.objects import Body, Shape

# What `physics_fingerprint` covers of the folder of simulators, besides the task.
_DECISIVE = (
    "tabletop/scene.py",
    "tabletop/furniture.py",
    "tabletop/robot.py",
    "tabletop/control.py",
    "tabletop/kinematics.py",
    "tabletop/env.py",
    "tabletop/render.py",
    "tasks/base.py",
    "tasks/cabinet.py",
    "tasks/rules.py",
    "episodes.py",
)

CONTROL_HZ = 3
SUBSTEPS = 33  # physics steps in a control step
TIMESTEP = 1 / (CONTROL_HZ * SUBSTEPS)  # s

# Contact bits: 1 world, 2 object, 4 unused, 8 left finger. The robot touches the world and the
# objects, objects touch each other, and the robot's right finger touches the left one; no other
# part of it touches another.
_MATERIALS = furniture.MATERIALS | {
    "shell": "0.78 0.75 0.71",
    "tendon": "0.45 0.42 0.38",
    "finger": "0.86 0.62 0.34",
}


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


def scene_mjcf(bodies: tuple[Body, ...], base: robot.Base, *, drawers: bool = False) -> str:
    """MJCF text of the whole scene, with the objects `bodies` and the robot at `base`.

    drawers: a cabinet in place of the table. Its joints come last, after those of the objects.

    The "discrete" integrator is what makes grasps hold: others solve contacts as if the drives'
    strong damping were not there.
    """
    shapes = [shape for body in bodies for shape in body.shapes]
    colours = _MATERIALS | {_material(shape): robot.numbers(shape.rgb) for shape in shapes}
    materials = "".join(
        f'<material name="{name}" rgba="{rgb} 1" specular="0.1"/>' for name, rgb in colours.items()
    )
    objects = "".join(map(_object, bodies))
    table, last = ("", furniture.drawer_cabinet()) if drawers else (furniture.table(), "")
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
{furniture.room()}{table}{robot.robot_body(base)}{objects}{last}
</worldbody>
<contact><exclude body1="gripper" body2="finger_right"/><exclude body1="gripper"
body2="finger_left"/></contact>
<actuator>{robot.robot_actuators(TIMESTEP)}</actuator>
</mujoco>"""


def load_model(scene: Scene):
    """The compiled scene (MjModel), shared by all environments: nobody may change its physics."""
    bodies = tuple(item.body for item in scene.objects)
    return _compile(bodies, base_of(scene), scene.drawers is not None)


@lru_cache(maxsize=64)
def _compile(bodies: tuple[Body, ...], base: robot.Base, drawers: bool):
    return mujoco.MjModel.from_xml_string(scene_mjcf(bodies, base, drawers=drawers))


def surface(scene: Scene) -> float:
    """Height of what the objects stand on (m)."""
    return furniture.TABLE_TOP if scene.drawers is None else cabinet.SURFACE


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
