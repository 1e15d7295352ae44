"""pick_coke_can in MuJoCo: a primitive-shape twin of SIMPLER's scene, without assets or a GPU.

What is SIMPLER's: kinematics, gains, controllers, camera, object sizes and masses, success rule.
What is not: contacts (MuJoCo's, with a weaker grip) and looks (flat colours, no photograph).
Numbers measured here are never SIMPLER's.
"""

import math
import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from selfflow_robotics.envs.base import RobotEnv, check_action
from selfflow_robotics.envs.episodes import draw_start
from selfflow_robotics.envs.tabletop import robot, scene
from selfflow_robotics.envs.tabletop.backend import mujoco
from selfflow_robotics.envs.tabletop.control import ArmController, GripperController
from selfflow_robotics.envs.tabletop.render import make_renderer
from selfflow_robotics.envs.tabletop.success import MIN_IMPULSE, PickRule, Touch
from selfflow_robotics.envs.tasks import Task
from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.observation import proprio_vector

_ARM, _FINGERS = slice(0, 7), slice(7, 9)  # in qpos, qvel and ctrl
_OBJECT_Q, _OBJECT_V = slice(9, 16), slice(9, 15)  # free joint: xyz, quaternion wxyz
_SETTLE_STEPS, _SETTLE_MORE = 50, 150  # physics steps (0.5 s, then up to 1.5 s while it moves)
_AT_REST = (1e-3, 1e-2)  # m/s, rad/s


class TabletopEnv(RobotEnv):
    """One robot, one table, one can; observations, actions and info as in `envs.base.RobotEnv`."""

    simulator = "tabletop"
    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's name and type)

    def __init__(
        self, task: Task, image_size: tuple[int, int] = (64, 80), renderer: str = "ray"
    ) -> None:
        """image_size: (height, width). renderer: "ray" (no OpenGL) or "gl".

        Raises UserError for a task this scene does not have and for a renderer that cannot run.
        """
        if task.object_name != "coke_can":
            raise UserError(
                f"the tabletop simulator has no '{task.object_name}' (task {task.name})"
            )
        super().__init__(task, image_size)
        self._model = scene.load_model()
        self._data = mujoco.MjData(self._model)
        self._renderer_name = renderer
        self._renderer = make_renderer(renderer, self._model, image_size)
        self._arm, self._gripper = ArmController(), GripperController()
        self._rule = PickRule(0.0)
        self._elapsed = 0
        self._find_parts()

    def _find_parts(self) -> None:
        model = self._model
        self._tool = model.site("tool").id
        self._object = model.body("object").id
        base = model.body("base").id
        root = model.body_rootid
        self._robot_body = [root[body] == base for body in range(model.nbody)]
        self._sides = tuple(
            tuple(model.body(name + part).id for part in ("", "_tip")) for name in robot.FINGERS
        )

    def begin(self, seed: int, options: dict[str, Any]) -> dict[str, Any]:
        episode = draw_start(self.task, seed, options)
        data = self._data
        mujoco.mj_resetData(self._model, data)
        quaternion, height = scene.VARIANTS[episode["variant"]]
        position = (*episode["object_xy"], scene.TABLE_TOP + height)
        self._set_robot(robot.RESET_ARM, (0.0, 0.0))
        data.qpos[_OBJECT_Q] = (*position, *quaternion)
        self._settle()
        settled = data.qpos[_OBJECT_Q].copy()
        self.place(np.array((*robot.RESET_ARM, 0.0, 0.0)), settled)
        return {**self._info(), "success": False, "episode": episode}

    def _set_robot(self, arm, fingers) -> None:
        self._data.qpos[_ARM], self._data.qpos[_FINGERS] = arm, fingers
        self._data.ctrl[_ARM], self._data.ctrl[_FINGERS] = arm, fingers

    def _settle(self) -> None:
        data = self._data
        for _ in range(_SETTLE_STEPS):
            mujoco.mj_step(self._model, data)
        for _ in range(_SETTLE_MORE):
            speed = data.qvel[_OBJECT_V]
            if math.hypot(*speed[:3]) < _AT_REST[0] and math.hypot(*speed[3:]) < _AT_REST[1]:
                return
            mujoco.mj_step(self._model, data)

    def place(self, qpos: np.ndarray, object_pose: np.ndarray) -> None:
        """Start at rest from given joint angles [9 or 11] and object pose [7] (world, wxyz).

        Height counts from this object pose in the success rule.
        """
        data = self._data
        # Nothing of what was before is left in the state: the solver starts from its last forces.
        mujoco.mj_resetData(self._model, data)
        self._set_robot(qpos[_ARM], qpos[_FINGERS])
        data.qpos[_OBJECT_Q] = object_pose
        mujoco.mj_forward(self._model, data)
        self._arm.reset()
        self._gripper.reset(data.qpos[_FINGERS])
        self._rule = PickRule(float(object_pose[2]))
        self._elapsed = 0

    def advance(self, action: np.ndarray) -> dict[str, Any]:
        action = check_action(action).astype(np.float64)
        model, data = self._model, self._data
        arm = self._arm.drive_targets(action[:6], data.qpos[_ARM], data.qvel[_ARM])
        fingers = self._gripper.drive_targets(
            float(action[6]), data.qpos[_FINGERS], data.qvel[_FINGERS]
        )
        for targets in np.concatenate([arm, fingers], axis=1):
            data.ctrl[:] = targets
            mujoco.mj_step(model, data)
        # Poses of the state just reached; contacts stay those of the last physics step.
        mujoco.mj_kinematics(model, data)
        self._elapsed += 1
        height = float(data.qpos[_OBJECT_Q][2])
        return {**self._info(), **self._rule.update(height, self._touch())}

    def observe(self) -> dict[str, Any]:
        state = self._state()
        return {
            "image": self._renderer.render(self._data),
            "instruction": self.task.instruction,
            "proprio": proprio_vector(state["tool_pose"], state["base_pose"], state["gripper"]),
        }

    def _info(self) -> dict[str, Any]:
        return {"elapsed_steps": self._elapsed, "state": self._state()}

    def _state(self) -> dict[str, Any]:
        data, qpos = self._data, self._data.qpos
        rotation = data.site_xmat[self._tool].reshape(3, 3)
        closedness = float(np.mean(qpos[_FINGERS]) / robot.FINGER_CLOSED)
        return {
            "tool_pose": np.concatenate([data.site_xpos[self._tool], _quaternion(rotation)]),
            "object_pose": qpos[_OBJECT_Q].copy(),
            "base_pose": np.array((*robot.BASE_POSITION, *robot.BASE_QUATERNION)),
            "qpos": np.concatenate([qpos[_ARM], qpos[_FINGERS], robot.HEAD]),
            "gripper": min(max(closedness, 0.0), 1.0),
        }

    def _touch(self) -> Touch:
        """The object's contacts in the last physics step, as impulses."""
        data, bodies, step = self._data, self._model.geom_bodyid, self._model.opt.timestep
        on_part = {body: np.zeros(3) for side in self._sides for body in side}
        only_robot = True
        force, impulse = np.empty(6), np.empty(3)
        for index in range(data.ncon):
            contact = data.contact[index]
            first, second = int(bodies[contact.geom1]), int(bodies[contact.geom2])
            if self._object not in (first, second):
                continue
            other = second if first == self._object else first
            mujoco.mj_contactForce(self._model, data, index, force)
            mujoco.mju_mulMatTVec(impulse, contact.frame.reshape(3, 3), force[:3])
            impulse *= step  # on the second body
            if not self._robot_body[other]:
                only_robot = only_robot and math.hypot(*impulse) <= MIN_IMPULSE
            elif other in on_part:
                on_part[other] += impulse if other == second else -impulse
        opening = {body: data.xmat[body].reshape(3, 3)[:, 1].copy() for body in on_part}
        return Touch(
            only_robot,
            tuple(tuple((on_part[b], opening[b]) for b in side) for side in self._sides),
        )

    def provenance(self) -> dict[str, Any]:
        return {
            "simulator": self.simulator,
            "task": self.task.name,
            "mujoco": mujoco.__version__,
            "ruckig": version("ruckig"),
            "machine": platform.machine(),
            "renderer": self._renderer_name,
            "image_size": list(self.image_size),
            "physics_sha256": scene.physics_fingerprint(),
        }

    def close(self) -> None:
        self._renderer.close()


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """Quaternion wxyz, w >= 0, of a rotation matrix [3, 3]."""
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).reshape(9))
    return quaternion if quaternion[0] >= 0 else -quaternion
