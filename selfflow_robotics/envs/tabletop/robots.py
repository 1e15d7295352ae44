"""The robots of this simulator by name: what its environment and scenes need to know of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from selfflow_robotics.envs.tabletop import furniture, google_robot, widowx, widowx_furniture
from selfflow_robotics.envs.tabletop.control import GoogleRobotController
from selfflow_robotics.envs.tabletop.mjcf import Base
from selfflow_robotics.envs.tabletop.widowx_control import WidowXController
from selfflow_robotics.envs.tasks import cabinet
from selfflow_robotics.envs.tasks.base import GOOGLE_ROBOT, WIDOWX, Scene


class Controller(Protocol):
    """Turns actions into drive targets; joints are the arm's, then the fingers', n in all."""

    def reset(self, q: np.ndarray) -> None:
        """Forget what was commanded; the joints are at q [n]."""
        ...

    def drive_targets(self, action: np.ndarray, q: np.ndarray, qdot: np.ndarray) -> np.ndarray:
        """Joint targets [substeps, n] for an action float64 [7]; q, qdot: measured [n]."""
        ...


@dataclass(frozen=True)
class Workplace:
    """What stands around a robot, as MJCF."""

    text: str  # before the robot and the objects
    surface: float  # height of the surface under the first object, m
    last: str = ""  # after the objects, since it has joints of its own
    other_surface: float | None = None  # height under further objects, m; None: the same


@dataclass(frozen=True)
class RobotModel:
    """One robot."""

    sources: tuple[str, ...]  # files of this folder that determine its motion and appearance
    control_hz: float
    substeps: int  # physics steps in a control step
    num_arm: int  # joints
    fingers: tuple[str, ...]  # joints
    finger_parts: tuple[tuple[str, ...], ...]  # bodies of each finger, which opens along their y
    open_finger: float  # joint position
    closed_finger: float
    unmoved: tuple[float, ...]  # further joints of SIMPLER's robot, which never move
    materials: dict[str, str]
    excluded: str  # MJCF of pairs that do not collide
    body: Callable[[Base], str]
    actuators: Callable[[float], str]
    controller: Callable[[], Controller]
    reset_arm: Callable[[Scene], tuple[float, ...]]
    base_height: Callable[[Scene], float]
    workplace: Callable[[Scene], Workplace]

    @property
    def timestep(self) -> float:
        """Of the physics, s."""
        return 1 / (self.control_hz * self.substeps)

    def closedness(self, fingers: np.ndarray) -> float:
        """0 open to 1 closed, of the finger joints' positions."""
        opened, closed = self.open_finger, self.closed_finger
        return (float(np.mean(fingers)) - opened) / (closed - opened)


def _google_workplace(scene: Scene) -> Workplace:
    if scene.drawers is None:
        return Workplace(furniture.room() + furniture.table(), furniture.TABLE_TOP)
    return Workplace(furniture.room(), cabinet.SURFACE, last=furniture.drawer_cabinet())


def _widowx_workplace(scene: Scene) -> Workplace:
    if scene.station == "table":
        return Workplace(widowx_furniture.table(), widowx_furniture.TABLE_TOP)
    return Workplace(
        widowx_furniture.sink(),
        widowx_furniture.SINK_FLOOR,
        other_surface=widowx_furniture.BASKET_FLOOR,
    )


ROBOTS = {
    "google_robot": RobotModel(
        sources=("google_robot.py", "control.py", "furniture.py"),
        control_hz=GOOGLE_ROBOT.control_hz,
        substeps=google_robot.SUBSTEPS,
        num_arm=len(google_robot.ARM_JOINTS),
        fingers=google_robot.FINGERS,
        finger_parts=tuple((name, f"{name}_tip") for name in google_robot.FINGERS),
        open_finger=0.0,
        closed_finger=google_robot.FINGER_CLOSED,
        unmoved=google_robot.HEAD,
        materials=furniture.MATERIALS | google_robot.MATERIALS,
        excluded=google_robot.EXCLUDED,
        body=google_robot.robot_body,
        actuators=google_robot.robot_actuators,
        controller=GoogleRobotController,
        reset_arm=lambda scene: google_robot.RESET_ARM,
        base_height=lambda scene: google_robot.BASE_HEIGHT,
        workplace=_google_workplace,
    ),
    "widowx": RobotModel(
        sources=("widowx.py", "widowx_control.py", "widowx_furniture.py"),
        control_hz=WIDOWX.control_hz,
        substeps=widowx.SUBSTEPS,
        num_arm=len(widowx.ARM_JOINTS),
        fingers=widowx.FINGERS,
        finger_parts=tuple((name,) for name in widowx.FINGERS),
        open_finger=widowx.FINGER_LIMITS[1],
        closed_finger=widowx.FINGER_LIMITS[0],
        unmoved=(),
        materials=widowx_furniture.MATERIALS | widowx.MATERIALS,
        excluded="",
        body=widowx.robot_body,
        actuators=widowx.robot_actuators,
        controller=WidowXController,
        reset_arm=lambda scene: widowx.STATIONS[scene.station].reset_arm,
        base_height=lambda scene: widowx.STATIONS[scene.station].height,
        workplace=_widowx_workplace,
    ),
}
