"""A task's scene as MJCF text, and its compiled model. The world frame is SIMPLER's."""

import ast
import hashlib
import inspect
from functools import lru_cache
from pathlib import Path
from typing import Any

from selfflow_robotics.envs.tabletop.backend import mujoco
from selfflow_robotics.envs.tabletop.mjcf import Base, numbers
from selfflow_robotics.envs.tabletop.robots import ROBOTS, RobotModel, Workplace
from selfflow_robotics.envs.tasks.base import Scene, Task
from selfflow_robotics.envs.tasks.objects import Body, Shape

# Files in envs/ that `physics_fingerprint` covers, besides those of the task and the robot.
_DECISIVE = (
    "tabletop/scene.py",
    "tabletop/mjcf.py",
    "tabletop/robots.py",
    "tabletop/kinematics.py",
    "tabletop/env.py",
    "tabletop/render.py",
    "tasks/base.py",
    "tasks/cabinet.py",
    "tasks/rules.py",
    "episodes.py",
)


# Contact bits: 1 world, 2 object, 4 unused, 8 left finger. The robot touches the world and the
# objects, objects touch each other, and the robot's right finger touches the left one; no other
# part of it touches another.
def _shape(body: Body, shape: Shape) -> str:
    touch = 'contype="0" conaffinity="0"'
    if shape.mass:
        touch = f'contype="2" conaffinity="3" condim="6" friction="{body.friction} 0.005 0.002"'
    return (
        f'<geom type="{shape.kind}" size="{numbers(shape.size)}" '
        f'pos="{numbers(shape.position)}" quat="{numbers(shape.quaternion)}" '
        f'material="{_material(shape)}" mass="{shape.mass!r}" {touch}/>'
    )


def _object(body: Body) -> str:
    shapes = "".join(_shape(body, shape) for shape in body.shapes)
    return f'<body name="{body.name}"><freejoint name="{body.name}"/>{shapes}</body>'


def _material(shape: Shape) -> str:
    return "rgb " + numbers(shape.rgb)


def scene_mjcf(
    robot: RobotModel, bodies: tuple[Body, ...], base: Base, workplace: Workplace
) -> str:
    """MJCF text of the whole scene, with the objects `bodies` and the robot at `base`.

    The joints are the robot's, then those of the objects, then those of the workplace.

    The "discrete" integrator is what makes grasps hold: others solve contacts as if the drives'
    strong damping were not there.
    """
    shapes = [shape for body in bodies for shape in body.shapes]
    colours = robot.materials | {_material(shape): numbers(shape.rgb) for shape in shapes}
    materials = "".join(
        f'<material name="{name}" rgba="{rgb} 1" specular="0.1"/>' for name, rgb in colours.items()
    )
    objects = "".join(map(_object, bodies))
    return f"""<mujoco model="tabletop">
<compiler angle="radian" autolimits="true"/>
<option timestep="{robot.timestep!r}" integrator="discrete" cone="elliptic"
        impratio="10"/>
<visual><headlight ambient="0.35 0.35 0.35" diffuse="0.1 0.1 0.1" specular="0 0 0"/>
<quality shadowsize="1024" offsamples="4"/><map znear="0.02" zfar="10"/></visual>
<default><geom group="1" condim="4"/><joint armature="0.01"/></default>
<asset>{materials}</asset>
<worldbody>
<light name="lamp" pos="0.0 0.38 2.6" dir="-0.1 -0.1 -1" diffuse="0.75 0.75 0.75"
       specular="0 0 0" cutoff="80" castshadow="true"/>
{workplace.text}{robot.body(base)}{objects}{workplace.last}
</worldbody>
<contact>{robot.excluded}</contact>
<actuator>{robot.actuators(robot.timestep)}</actuator>
</mujoco>"""


def load_model(robot: str, scene: Scene):
    """The compiled scene (MjModel), shared by all environments: nobody may change its physics."""
    bodies = tuple(item.body for item in scene.objects)
    workplace = ROBOTS[robot].workplace(scene)
    return _compile(robot, bodies, base_of(robot, scene), workplace)


@lru_cache(maxsize=64)
def _compile(robot: str, bodies: tuple[Body, ...], base: Base, workplace: Workplace):
    return mujoco.MjModel.from_xml_string(scene_mjcf(ROBOTS[robot], bodies, base, workplace))


def base_of(robot: str, scene: Scene) -> Base:
    """The pose of the robot's base."""
    position = (*scene.base_xy, ROBOTS[robot].base_height(scene))
    return Base(position, scene.base_quaternion, scene.station)


def physics_fingerprint(task: Task) -> str:
    """SHA-256 over everything that determines a task's motion, success and images: the code of the
    simulator, of the task's robot and of the task's own files, and the task's objects.

    The MJCF alone would not be enough: it has neither the controllers' limits nor the settings of
    the inverse kinematics, the success rule or the ray renderer's lights. Comments, docstrings,
    other tasks and other robots do not change the hash.
    """
    folder = Path(__file__).parents[1]
    own = (f"tabletop/{name}" for name in ROBOTS[task.robot.name].sources)
    sources = [folder / name for name in (*_DECISIVE, *own)]
    classes = [one for one in type(task).__mro__ if issubclass(one, Task) and one is not Task]
    sources += [Path(inspect.getfile(one)) for one in classes]
    parts = [*(_code(path.read_text()) for path in sources), repr(task.bodies)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _code(source: str) -> str:
    """The syntax tree of Python code as text, without docstrings, the same in all Pythons."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node) is not None:
            del node.body[0]
    return repr(_plain(tree))


def _plain(node: Any) -> Any:
    """A syntax tree as lists; empty fields, which not all Pythons have, are left out."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
    return [type(node).__name__, *((name, _plain(value)) for name, value in fields)]
