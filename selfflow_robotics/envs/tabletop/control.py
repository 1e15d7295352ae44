"""The google robot: from one action to the drive targets of every physics step, as SIMPLER's
controllers do it.

Source of the rules: ManiSkill2_real2sim agents/controllers/pd_ee_pose.py, pd_joint_pos.py,
agents/base_controller.py (planning) and agents/utils.py (Ruckig). Both controllers plan a
jerk-limited path once per control step and hand its samples to the joint drives:

* the arm aims at the *measured* tool pose changed by the action, so it follows about a third of a
  constantly commanded translation per step; its plan starts where the previous plan has got to;
* the fingers' target moves by the action from the last drive target and is clipped to the joint's
  range; an action near 0 keeps the target that was commanded before.
"""

import numpy as np
from ruckig import InputParameter, Result, Ruckig, Trajectory

from selfflow_robotics.envs.tabletop import google_robot as robot
from selfflow_robotics.envs.tabletop.kinematics import ArmKinematics
from selfflow_robotics.envs.tasks.base import GOOGLE_ROBOT

ARM_LIMITS = (1.5, 2.0, 50.0)  # velocity, acceleration, jerk (rad, s)
FINGER_PLAN_LIMITS = (1.0, 7.0, 50.0)
FINGER_STROKE = 1.31  # rad a gripper action of 1 asks for
FINGER_TARGET_RANGE = (robot.FINGER_LIMITS[0] - 0.01, robot.FINGER_LIMITS[1] + 0.01)
SMALL_GRIPPER_ACTION = 1e-3  # rad: below it the fingers go on to what was commanded before
_PERIOD = 1.0 / GOOGLE_ROBOT.control_hz
_NUM_ARM = len(robot.ARM_JOINTS)
_ARM_RANGE = np.array(robot.ARM_RANGES).T
# SIMPLER holds each of its 171 samples for 1/513 s; on average over one of our longer physics steps
# its drives see the plan at the step's middle, plus half of 1/513 s.
SAMPLE_TIMES = (np.arange(robot.SUBSTEPS) + 0.5) * (_PERIOD / robot.SUBSTEPS) + 0.5 / 513


class _Planner:
    """Jerk-limited point-to-point plans for `dof` joints in step, ending at rest."""

    def __init__(self, dof: int, limits: tuple[float, float, float]) -> None:
        self._otg, self._input, self._plan = Ruckig(dof), InputParameter(dof), Trajectory(dof)
        velocity, acceleration, jerk = ([limit] * dof for limit in limits)
        self._input.max_velocity, self._input.max_acceleration = velocity, acceleration
        self._input.max_jerk = jerk
        self._input.current_acceleration = [0.0] * dof

    def plan(self, position, velocity, target) -> None:
        """Plan to `target` [dof]. An impossible request (never seen) stays at `position`."""
        self._input.current_position, self._input.current_velocity = position, velocity
        self._input.target_position = target
        if self._otg.calculate(self._input, self._plan) not in (Result.Working, Result.Finished):
            self._input.current_velocity = np.zeros_like(position)
            self._input.target_position = position
            self._otg.calculate(self._input, self._plan)

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        position, velocity, _ = self._plan.at_time(min(time, self._plan.duration))
        return np.array(position), np.array(velocity)

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity [SUBSTEPS, dof] that the drives get in the coming control step."""
        samples = [self.at(time) for time in SAMPLE_TIMES]
        return np.array([p for p, _ in samples]), np.array([v for _, v in samples])


class ArmController:
    """Seven arm joints towards a tool pose relative to the measured one (frame "ee_align")."""

    def __init__(self) -> None:
        self._kinematics = ArmKinematics(robot.arm_only_mjcf())
        self._planner = _Planner(len(robot.ARM_JOINTS), ARM_LIMITS)
        self._waypoint: tuple[np.ndarray, np.ndarray] | None = None

    def reset(self) -> None:
        self._waypoint = None

    def drive_targets(self, action: np.ndarray, q: np.ndarray, qdot: np.ndarray) -> np.ndarray:
        """Joint targets [SUBSTEPS, 7] for an action [6] (m, rotation vector; base frame).

        q, qdot: measured angles and velocities [7].
        """
        target = self._kinematics.solve(action[:3], action[3:], q)
        if target is None:  # SIMPLER: no solution, aim at where the arm is
            target = q
        limit = ARM_LIMITS[0]
        position, velocity = self._waypoint or (q, np.clip(qdot, -limit, limit))
        self._planner.plan(position, velocity, target)
        self._waypoint = self._planner.at(_PERIOD)
        # A plan may lead beyond a joint's range; PhysX takes drive targets within it only.
        return np.clip(self._planner.sample()[0], *_ARM_RANGE)


class GripperController:
    """Two fingers that do the same: relative, sticky, clipped."""

    def __init__(self) -> None:
        self._planner = _Planner(len(robot.FINGERS), FINGER_PLAN_LIMITS)
        self._target = self._drive_target = np.zeros(len(robot.FINGERS))

    def reset(self, q: np.ndarray) -> None:
        """Forget what was commanded; the fingers are at q [2] and stay there."""
        self._target = self._drive_target = q.copy()

    def drive_targets(self, action: float, q: np.ndarray, qdot: np.ndarray) -> np.ndarray:
        """Finger targets [SUBSTEPS, 2] for an action in [-1, 1] (clipped; +1 closes).

        q, qdot: measured angles and velocities [2].
        """
        stroke = FINGER_STROKE * float(np.clip(action, -1.0, 1.0))
        if abs(stroke) >= SMALL_GRIPPER_ACTION:
            self._target = np.clip(self._drive_target + stroke, *FINGER_TARGET_RANGE)
        limit = FINGER_PLAN_LIMITS[0]
        self._planner.plan(q, np.clip(qdot, -limit, limit), self._target)
        self._drive_target = self._planner.at(_PERIOD)[0]
        position, velocity = self._planner.sample()
        # The drives have velocity targets too: k (p - q) + d (v - q') = k (p + v d/k - q) - d q'.
        return position + velocity * (robot.FINGER_DAMPING / robot.FINGER_STIFFNESS)


class GoogleRobotController:
    """Arm and gripper."""

    def __init__(self) -> None:
        self._arm, self._gripper = ArmController(), GripperController()

    def reset(self, q: np.ndarray) -> None:
        """Forget what was commanded; the joints are at q [9]."""
        self._arm.reset()
        self._gripper.reset(q[_NUM_ARM:])

    def drive_targets(self, action: np.ndarray, q: np.ndarray, qdot: np.ndarray) -> np.ndarray:
        """Joint targets [SUBSTEPS, 9] for an action float64 [7]; q, qdot: measured [9]."""
        arm = self._arm.drive_targets(action[:6], q[:_NUM_ARM], qdot[:_NUM_ARM])
        fingers = self._gripper.drive_targets(float(action[6]), q[_NUM_ARM:], qdot[_NUM_ARM:])
        return np.concatenate([arm, fingers], axis=1)
