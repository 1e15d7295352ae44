"""The WidowX 250 S robot as SIMPLER defines it, built of primitive shapes.

Joint chain, limits, masses, drive gains, reset poses and cameras are those of ManiSkill2_real2sim
(assets/descriptions/widowx_description/wx250s.urdf, agents/configs/widowx/defaults.py and
envs/custom_scenes/base_env.py); the shapes are simple solids of about the same size. Lengths in
metres, angles in radians, masses in kilograms, frames as in that URDF: a gripper points along x and
its fingers move along y.
"""

import math
from dataclasses import dataclass

from selfflow_robotics.envs.tabletop.mjcf import (
    CAMERA,
    NO_TOUCH,
    TOUCH_ARM,
    TOUCH_LEFT,
    TOUCH_RIGHT,
    Base,
    Link,
    box,
    drive,
    numbers,
    rpy_quaternion,
)

SUBSTEPS = 20  # physics steps in a control step
ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
FINGERS = ("left_finger", "right_finger")
FINGER_LIMITS = (0.015, 0.037)  # m from the middle: closed, open
FINGER_TARGETS = (0.014, 0.038)  # of the gripper actions that close and open

ARM_STIFFNESS = (1169.7891719504198, 730.0, 808.4601346394447, 1229.1299089624076,
                 1272.2760456418862, 1056.3326605132252)  # N m / rad  # fmt: skip
ARM_DAMPING = (330.0, 180.0, 152.12036565582588, 309.6215302722146, 201.04998711007383,
               269.51458932695414)  # N m s / rad  # fmt: skip
# SIMPLER limits the drives to 100 and 200 N m and solves for stiffness and damping together. In
# MuJoCo, a limit would cut off the stiffness term alone, which is large right after a target jumps,
# and a drive at its limit has no damping. Without limits, no drive comes near SIMPLER's.
FINGER_STIFFNESS, FINGER_DAMPING = 1000.0, 200.0  # N/m, N s/m
PAD_FRICTION = 2.0
PAD_SOLIMP = "0.99 0.995 0.001"  # as the google robot's
TOOL_X = 0.043 + 0.023 + 0.027575  # tool centre point in the gripper's frame


@dataclass(frozen=True)
class Station:
    """A place for the robot: its base height, initial joint angles and camera (base frame)."""

    height: float
    reset_arm: tuple[float, ...]
    camera_position: tuple[float, float, float]
    # Of the camera's frame with x forward, y left and z up: wxyz.
    camera_quaternion: tuple[float, float, float, float]


def _looking_along(x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """The quaternion of a level camera that looks in this direction."""
    w, i, j, k = rpy_quaternion(0.0, math.atan2(-z, math.hypot(x, y)), math.atan2(y, x)).tolist()
    return w, i, j, k


STATIONS = {
    "table": Station(
        0.870,
        (-0.01840777, 0.0398835, 0.22242722, -0.00460194, 1.36524296, 0.00153398),
        (0.0, -0.16, 0.36),
        _looking_along(1.0, 0.553, -1.085),
    ),
    "sink": Station(
        0.85,
        (-0.2600599, -0.12875618, 0.04461369, -0.00652761, 1.7033415, -0.26983038),
        (-0.003, -0.21, 0.39),
        (-0.907313, 0.0782, -0.36434, -0.194741),
    ),
}
# A Logitech C920: 640 x 480 px with this focal length. Pictures of another shape are stretched.
_CAMERA_PX, _FOCAL_PX = (640, 480), 623.588

MATERIALS = {"shell": "0.13 0.13 0.14", "finger": "0.10 0.10 0.11"}


def _capsule(start: str, end: str, radius: float, touch: str = NO_TOUCH) -> str:
    ends = f'fromto="{start} {end}"'
    return f'<geom type="capsule" {ends} size="{radius}" material="shell" {touch}/>'


def _shell(middle, half, touch: str = TOUCH_ARM) -> str:
    return box(middle, half, "shell", touch)


_LINKS = (
    Link("waist", (0, 0, 0.072), "0 0 1", (-3.14159, 3.14159), 0.4809, (0.0, 0.0, 0.0066),
          (0.00038, 0.00056, 0.00059), _capsule("0 0 0.0", "0 0 0.02", 0.045)),
    Link("shoulder", (0, 0, 0.03865), "0 1 0", (-1.88496, 1.98968), 0.4308,
          (0.0172, 0.0, 0.1913), (0.0036, 0.0035, 0.0004),
          _shell((0.0, 0, 0.12), (0.014, 0.03, 0.12), NO_TOUCH)
          + _shell((0.023, 0, 0.25), (0.037, 0.03, 0.018), NO_TOUCH)),
    Link("elbow", (0.04975, 0, 0.25), "0 1 0", (-2.14675, 1.60570), 0.2346,
          (0.108, 0.0001, 0.0), (0.00004, 0.00089, 0.00089), 
          _capsule("0.02 0 0", "0.16 0 0", 0.02, TOUCH_ARM)),
    Link("forearm_roll", (0.175, 0, 0), "1 0 0", (-3.14158, 3.14158), 0.2210,
          (0.0374, -0.0052, 0.0), (0.00006, 0.00017, 0.00018),
          _shell((0.041, 0.0, 0), (0.045, 0.025, 0.0245))),
    Link("wrist_angle", (0.075, 0, 0), "0 1 0", (-1.74533, 2.14675), 0.0850,
          (0.0424, 0.0, 0.0106), (0.00003, 0.00003, 0.00003),
          _shell((0.031, 0, 0.006), (0.034, 0.022, 0.026))),
    Link("wrist_rotate", (0.065, 0, 0), "1 0 0", (-3.14158, 3.14158), 0.1124,
          (0.0350, 0.0, 0.0092), (0.00006, 0.00008, 0.00009),
          _shell((0.0215, 0, 0.006), (0.0215, 0.02, 0.026))
          + _shell((0.057, 0, 0.0), (0.0146, 0.0523, 0.0145))
          + _shell((0.057, 0, 0.022), (0.008, 0.012, 0.012))),
)  # fmt: skip

ARM_RANGES = tuple(link.limits for link in _LINKS)  # rad


def _finger(name: str, turn: str, touch: str) -> str:
    """A finger that opens along its own y; the pad's inner face is 10 mm before its frame."""
    pad = f'{touch} friction="{PAD_FRICTION} 0.05 0.002" priority="1" solimp="{PAD_SOLIMP}"'
    return f"""
<body name="{name}" pos="0.066 0 0" quat="{turn}" gravcomp="1">
  <joint name="{name}" type="slide" axis="0 1 0" range="{numbers(FINGER_LIMITS)}" armature="0.003"/>
  <inertial mass="0.0162" pos="0.0138 0 0" diaginertia="1.5e-6 4e-6 5e-6"/>
  {box((0.0015, -0.0025, 0), (0.0135, 0.0075, 0.0140), "finger", pad)}
  {box((0.0290, -0.0060, 0), (0.0142, 0.0040, 0.0130), "finger", pad)}
</body>"""


def _arm(innermost: str, solid: bool) -> str:
    text = innermost
    for link in reversed(_LINKS):
        text = f"""
<body name="{link.name}" pos="{numbers(link.position)}" gravcomp="1">
<joint name="{link.name}" axis="{link.axis}" range="{numbers(link.limits)}"/>
<inertial mass="{link.mass}" pos="{numbers(link.center)}" diaginertia="{numbers(link.inertia)}"/>
{link.geoms if solid else ""}{text}</body>"""
    return text


_TOOL = f'<site name="tool" pos="{TOOL_X} 0 0" group="5"/>'


def robot_body(base: Base) -> str:
    """MJCF of the robot in the world, with the camera beside its base."""
    station = STATIONS[base.station]
    width, height = _CAMERA_PX
    # Of 1 m focal length: only ratios matter.
    sensor = numbers((width / _FOCAL_PX, height / _FOCAL_PX))
    fingers = _finger("left_finger", "1 0 0 0", TOUCH_LEFT)
    fingers += _finger("right_finger", "0 1 0 0", TOUCH_RIGHT)
    return f"""
<body name="base" pos="{numbers(base.position)}" quat="{numbers(base.quaternion)}">
  <geom type="box" pos="-0.04 0 0.036" size="0.1 0.07 0.036" material="shell" group="2"
        {NO_TOUCH}/>
  <body name="camera" pos="{numbers(station.camera_position)}"
        quat="{numbers(station.camera_quaternion)}">
    <camera name="{CAMERA}" xyaxes="0 -1 0 0 0 1" resolution="{width} {height}"
            focal="1 1" sensorsize="{sensor}"/>
  </body>
  {_arm(_TOOL + fingers, solid=True)}
</body>"""


def robot_actuators(timestep: float) -> str:
    """MJCF of the drives. timestep: of the physics, s."""
    lag = 0.5 / 500 - timestep / 2  # against SAPIEN's 1/500 s
    drives = [
        *zip(ARM_JOINTS, ARM_STIFFNESS, ARM_DAMPING, strict=True),
        *((name, FINGER_STIFFNESS, FINGER_DAMPING) for name in FINGERS),
    ]
    return "".join(drive(*each, limit=None, timestep_lag=lag) for each in drives)


def arm_only_mjcf() -> str:
    """MJCF of the six arm joints in the base's frame, for inverse kinematics."""
    return (
        '<mujoco model="arm"><compiler angle="radian"/><worldbody>'
        + _arm(_TOOL, solid=False)
        + "</worldbody></mujoco>"
    )
