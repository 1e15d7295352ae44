"""The google robot as SIMPLER defines it, built of primitive shapes.

Joint chain, limits, drive gains, reset pose and camera are those of ManiSkill2_real2sim
(assets/descriptions/googlerobot_description/*_fix_fingertip.urdf and
agents/configs/google_robot/defaults.py); the shapes are simple solids of about the same size.
Lengths in metres, angles in radians, masses in kilograms, frames as in that URDF.
"""

import math

import numpy as np

from selfflow_robotics.envs.tabletop.mjcf import (
    CAMERA,
    NO_TOUCH,
    TOUCH_ARM,
    TOUCH_LEFT,
    TOUCH_RIGHT,
    Base,
    Link,
    drive,
    numbers,
    rpy_quaternion,
)

SUBSTEPS = 33  # physics steps in a control step
BASE_HEIGHT = 0.06205 + 0.017
ARM_JOINTS = ("torso", "shoulder", "bicep", "elbow", "forearm", "wrist", "gripper")
FINGERS = ("finger_right", "finger_left")
RESET_ARM = (
    -0.2639457174606611,
    0.0831913360274175,
    0.5017611504652179,
    1.156859026208673,
    0.028583671314766423,
    1.592598203487462,
    -1.080652960128774,
)
HEAD = (-0.00285961, 0.7851361)  # pan, tilt: never move
FINGER_CLOSED = 1.3  # upper limit of a finger joint; closedness is the mean of angle / limit
FINGER_LIMITS = (-0.0001, FINGER_CLOSED)

ARM_STIFFNESS = (1700.0, 1737.0471680861954, 979.975871856535, 930.0, 1212.154500274304,
                 432.96500923932535, 468.0013365498738)  # N m / rad  # fmt: skip
ARM_DAMPING = (1059.9791902443303, 1010.4720585373592, 767.2803161582076, 680.0,
               674.9946964336588, 274.613381336198, 340.532560578637)  # N m s / rad  # fmt: skip
ARM_FORCE_LIMIT = (300.0, 300.0, 100.0, 100.0, 100.0, 100.0, 100.0)  # N m
# SIMPLER's fingers have 200, 8 and a limit of 60 N m, which here squeezes the 20 g can out from
# between them (13 of 30 grasps hold; at 1 N m all do). A tenth of the gains keeps the time constant
# below that limit, and a trace of dry friction keeps closed fingers from swinging aside together.
FINGER_STIFFNESS, FINGER_DAMPING, FINGER_FORCE_LIMIT = 20.0, 0.8, 1.0
FINGER_FRICTION = 0.01  # N m
PAD_FRICTION = 2.0
# MuJoCo's default contact would let a pad sink 5 mm into so light an object; this one 0.5 mm.
PAD_SOLIMP = "0.99 0.995 0.001"

TOOL_POSITION = (0.0043374896, 0.0018852949, 0.16353297)  # tool centre point in the gripper's frame
TOOL_RPY = (-0.001328879239766479, -0.00443973089771006, -0.0008686511567993004)
FINGER_ANGLE = -1.15  # of a finger's frame about x at joint angle 0
FINGER_TIP = (0.0, -0.01035672521526, 0.0641556076619853)  # tip frame in the finger's frame
FINGER_TIP_ANGLE = 0.45

CAMERA_FOCAL_PX, CAMERA_HEIGHT_PX = 425.0, 512.0
CAMERA_FOVY = math.degrees(2 * math.atan(CAMERA_HEIGHT_PX / 2 / CAMERA_FOCAL_PX))  # 62.1 deg
HEAD_PAN_POSITION = (0.0, 0.0, 1.16902)
HEAD_TILT_POSITION = (0.0718099999986988, 0.0, 0.11848)
CAMERA_POSITION = (0.10488, 0.0, 0.0)  # in the head's frame, looking along its x


def _capsule(start: str, end: str, radius: float, material: str, touch: str = NO_TOUCH) -> str:
    ends = f'fromto="{start} {end}"'
    return f'<geom type="capsule" {ends} size="{radius}" material="{material}" {touch}/>'


def _box(position: str, half: str, material: str, touch: str = NO_TOUCH, more: str = "") -> str:
    return f'<geom type="box" pos="{position}" size="{half}" material="{material}" {touch} {more}/>'


_LINKS = (
    Link("torso", (0, 0, 0.5945), "0 0 1", (-4.49, 1.35), 1.8957, (-0.0035, -0.0607, 0.1118),
          (0.0133, 0.0067, 0.0115),
          _capsule("0 0 0.05", "0 0 0.14", 0.077, "shell")
          + _capsule("0 0 0.113", "0 -0.12 0.113", 0.065, "shell")),
    Link("shoulder", (0, -0.16728852885, 0.113), "0 1 0", (-2.66, 3.18), 1.8472,
          (0.0011, 0.0048, 0.1049), (0.0140, 0.0142, 0.0029),
          _capsule("0 -0.02 0", "0 0.02 0", 0.062, "shell")
          + _capsule("0 0 0", "0 0 0.17", 0.055, "shell")),
    Link("bicep", (0, 0.002289, 0.21502852885), "0 0 1", (-2.13, 3.71), 1.2474,
          (0.0004, -0.0211, 0.1352), (0.0070, 0.0069, 0.0019),
          _capsule("0 0 0.05", "0 0 0.18", 0.052, "shell", TOUCH_ARM)),
    Link("elbow", (0, -0.064, 0.1849715), "0 1 0", (-2.05, 3.79), 0.6464,
          (0.0017, -0.0766, 0.0367), (0.0018, 0.0012, 0.0013),
          _capsule("0 -0.05 0", "0 -0.095 0", 0.051, "shell", TOUCH_ARM)
          + _capsule("0 -0.101 0", "0 -0.101 0.05", 0.045, "shell", TOUCH_ARM)),
    Link("forearm", (0, -0.101, 0.0915), "0 0 1", (-2.92, 2.92), 0.7244,
          (0.0, 0.0151, 0.1818), (0.0072, 0.0072, 0.0006),
          _capsule("0 0 0.03", "0 0.01 0.25", 0.044, "shell", TOUCH_ARM)),
    Link("wrist", (0, -0.00604, 0.2735), "0 1 0", (-1.79, 1.79), 0.5019,
          (-0.0003, -0.0073, 0.0537), (0.0011, 0.0011, 0.0004),
          _capsule("0 0 0.0", "0 0 0.07", 0.04, "shell", TOUCH_ARM)),
    Link("gripper", (0, 0.0060384, 0.10911), "0 0 1", (-4.49, 1.35), 0.4051,
          (0.0004, 0.0001, 0.0379), (0.00029, 0.00026, 0.00031),
          '<geom type="cylinder" pos="0 0 0.033" size="0.045 0.032" material="shell" '
          + TOUCH_ARM + "/>"
          + _box("0 0 0.066", "0.030 0.040 0.012", "tendon")),
)  # fmt: skip


ARM_RANGES = tuple(link.limits for link in _LINKS)  # rad


def _finger(name: str, y: float, yaw: float, touch: str) -> str:
    """A finger: base block, tip frame (a body of its own, for the grasp rule), two pads a tip."""
    pad = f'friction="{PAD_FRICTION} 0.05 0.002" priority="1" solimp="{PAD_SOLIMP}"'
    return f"""
<body name="{name}" pos="0 {y} 0.05861" quat="{numbers(rpy_quaternion(FINGER_ANGLE, 0, yaw))}"
      gravcomp="1">
  <joint name="{name}" axis="1 0 0" range="{numbers(FINGER_LIMITS)}" armature="0.003"
         frictionloss="{FINGER_FRICTION}"/>
  <inertial mass="0.0333" pos="0 0.0004 0.0372" diaginertia="1.5e-5 1.2e-5 6e-6"/>
  {_box("0 -0.0045 0.0445", "0.0245 0.012 0.0245", "finger", touch, pad)}
  <geom type="capsule" fromto="-0.02 0 0.008 0.02 0 0.008" size="0.011" material="finger"
        {NO_TOUCH}/>
  <body name="{name}_tip" pos="{numbers(FINGER_TIP)}" gravcomp="1"
        quat="{numbers(rpy_quaternion(FINGER_TIP_ANGLE, 0, 0))}">
    <inertial mass="0.0162" pos="0 0.0004 0.0216" diaginertia="1e-5 1e-5 2e-6"/>
    {_box("0 -0.0015 0.0215", "0.016 0.005 0.0235", "finger", touch, pad)}
    {_box("0 0.005 0.010", "0.019 0.008 0.012", "finger", touch)}
  </body>
</body>"""


def _gripper_parts() -> str:
    return (
        f'<site name="tool" pos="{numbers(TOOL_POSITION)}" '
        f'quat="{numbers(rpy_quaternion(*TOOL_RPY))}" group="5"/>'
        + _finger("finger_right", -0.025, np.pi, TOUCH_RIGHT)
        + _finger("finger_left", 0.025, 0.0, TOUCH_LEFT)
    )


def _arm(innermost: str, solid: bool) -> str:
    text = innermost
    for link in reversed(_LINKS):
        text = f"""
<body name="{link.name}" pos="{numbers(link.position)}" gravcomp="1">
<joint name="{link.name}" axis="{link.axis}" range="{numbers(link.limits)}"/>
<inertial mass="{link.mass}" pos="{numbers(link.center)}" diaginertia="{numbers(link.inertia)}"/>
{link.geoms if solid else ""}{text}</body>"""
    return text


MATERIALS = {
    "shell": "0.78 0.75 0.71",
    "tendon": "0.45 0.42 0.38",
    "finger": "0.86 0.62 0.34",
}
EXCLUDED = """<exclude body1="gripper" body2="finger_right"/><exclude body1="gripper"
body2="finger_left"/>"""


def robot_body(base: Base) -> str:
    """MJCF of the robot in the world, with the camera in its head."""
    return f"""
<body name="base" pos="{numbers(base.position)}" quat="{numbers(base.quaternion)}">
  <geom type="cylinder" pos="-0.1 0 0.15" size="0.28 0.15" material="shell" group="2" {NO_TOUCH}/>
  <geom type="box" pos="-0.08 0 0.65" size="0.09 0.11 0.5" material="shell" group="2" {NO_TOUCH}/>
  <body name="head_pan" pos="{numbers(HEAD_PAN_POSITION)}"
        quat="{numbers(rpy_quaternion(0, 0, HEAD[0]))}">
    <body name="head_tilt" pos="{numbers(HEAD_TILT_POSITION)}"
          quat="{numbers(rpy_quaternion(0, HEAD[1], 0))}">
      <geom type="box" pos="0.05 0 0" size="0.05 0.1 0.04" material="shell" group="2" {NO_TOUCH}/>
      <camera name="{CAMERA}" pos="{numbers(CAMERA_POSITION)}" xyaxes="0 -1 0 0 0 1"
              fovy="{CAMERA_FOVY!r}"/>
    </body>
  </body>
  {_arm(_gripper_parts(), solid=True)}
</body>"""


def robot_actuators(timestep: float) -> str:
    """MJCF of the drives. timestep: of the physics, s."""
    # Against SAPIEN's 1/513 s (mean tool error 1.55 -> 0.22 mm over the replays).
    lag = 0.5 / 513 - timestep / 2
    drives = [
        *zip(ARM_JOINTS, ARM_STIFFNESS, ARM_DAMPING, ARM_FORCE_LIMIT, strict=True),
        *((name, FINGER_STIFFNESS, FINGER_DAMPING, FINGER_FORCE_LIMIT) for name in FINGERS),
    ]
    return "".join(drive(*each, timestep_lag=lag) for each in drives)


def arm_only_mjcf() -> str:
    """MJCF of the seven arm joints in the base's frame, for inverse kinematics."""
    tool = (
        f'<site name="tool" pos="{numbers(TOOL_POSITION)}" '
        f'quat="{numbers(rpy_quaternion(*TOOL_RPY))}"/>'
    )
    return (
        '<mujoco model="arm"><compiler angle="radian"/><worldbody>'
        + _arm(tool, solid=False)
        + "</worldbody></mujoco>"
    )
