"""Tasks in MuJoCo: a copy of SIMPLER's scenes in primitive shapes, without assets or a GPU.

Taken from SIMPLER: kinematics, gains, controllers, camera, object sizes and masses, success rules.
Different: contacts (MuJoCo's, with a weaker grip) and appearance (flat colours, no photograph).
Success rates measured here are never SIMPLER's.
"""

import math
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from selfflow_robotics.envs.base import RobotEnv, check_action, named_robot, robot_state
from selfflow_robotics.envs.episodes import draw_start
from selfflow_robotics.envs.tabletop import scene
from selfflow_robotics.envs.tabletop.backend import mujoco
from selfflow_robotics.envs.tabletop.render import Renderer, make_renderer
from selfflow_robotics.envs.tabletop.robots import ROBOTS
from selfflow_robotics.envs.tasks.base import Scene, Task
from selfflow_robotics.envs.tasks.rules import MIN_IMPULSE, Seen, Touch
from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.observation import proprio_vector

_SETTLE_STEPS, _SETTLE_MORE = 50, 150  # physics steps (0.5 s, then up to 1.5 s while it moves)
_AT_REST = (1e-3, 1e-2)  # m/s, rad/s


class TabletopEnv(RobotEnv):
    """One robot, its workplace, and the task's objects.

    Observations, actions and info are those of `envs.base.RobotEnv`.
    """

    simulator = "tabletop"
    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's name and type)

    def __init__(
        self, task: Task, image_size: tuple[int, int] = (64, 80), renderer: str = "ray"
    ) -> None:
        """image_size: (height, width). renderer: "ray" (no OpenGL) or "gl".

        Raises UserError for an unknown robot and for a renderer that cannot run.
        """
        if task.robot.name not in ROBOTS:
            raise UserError(f"the tabletop simulator has no {task.robot.name} (task {task.name})")
        super().__init__(task, image_size)
        self._robot = robot = ROBOTS[task.robot.name]
        # Indices of its joints in qpos, qvel and ctrl; the objects' joints follow.
        self._fingers = slice(robot.num_arm, robot.num_arm + len(robot.fingers))
        self._num_joints = self._fingers.stop
        self._renderer_name = renderer
        self._renderer: Renderer | None = None
        self._controller = robot.controller()
        self._elapsed = 0
        self._episode = draw_start(task, 0, {})
        self._load(task.scene(self._episode))

    def _load(self, start: Scene) -> None:
        """Load the model of a scene, unless the last one had the same objects."""
        model = scene.load_model(self.task.robot.name, start)
        if self._renderer is not None:
            if model is self.model:
                return
            self._renderer.close()
        self.model, self._data = model, mujoco.MjData(model)
        self._renderer = make_renderer(self._renderer_name, model, self.image_size)
        stands = scene.base_of(self.task.robot.name, start)
        self.base_pose = np.array((*stands.position, *stands.quaternion))
        self._tool = model.site("tool").id
        bodies = [model.body(item.body.name).id for item in start.objects]
        self._objects = {body: index for index, body in enumerate(bodies)}
        base = model.body("base").id
        root = model.body_rootid
        self._robot_body = [root[body] == base for body in range(model.nbody)]
        self._sides = tuple(
            tuple(model.body(part).id for part in parts) for parts in self._robot.finger_parts
        )

    def begin(self, seed: int, options: dict[str, Any]) -> dict[str, Any]:
        episode = draw_start(self.task, seed, options)
        start = self.task.scene(episode)
        self._load(start)
        self._episode = episode
        mujoco.mj_resetData(self.model, self._data)
        robot, around = self._robot, self._robot.workplace(start)
        joints = np.array((*robot.reset_arm(start), *[robot.open_finger] * len(robot.fingers)))
        self._set_robot(joints)
        surface = around.surface
        for pose, item in zip(self._poses, start.objects, strict=True):
            pose[:] = (*item.xy, surface + item.rest.height, *item.rest.quaternion)
            surface = around.surface if around.other_surface is None else around.other_surface
        if start.drawers is not None:
            self._drawers[:] = start.drawers
        self._settle()
        self.place(joints, self._poses.copy(), start.drawers)
        return {**self._info(), "success": False, "episode": episode}

    def _set_robot(self, joints) -> None:
        self._data.qpos[: self._num_joints] = self._data.ctrl[:] = joints

    def _settle(self) -> None:
        data = self._data
        for _ in range(_SETTLE_STEPS):
            mujoco.mj_step(self.model, data)
        for _ in range(_SETTLE_MORE):
            first = self._num_joints
            speeds = data.qvel[first : first + 6 * len(self._objects)].reshape(-1, 6)
            if all(_is_at_rest(speed) for speed in speeds):
                return
            mujoco.mj_step(self.model, data)

    def place(
        self, qpos: np.ndarray, poses: np.ndarray, drawers: Sequence[float] | None = None
    ) -> None:
        """Start at rest from given joint angles (arm and fingers; further ones are ignored), object
        poses [n, 7] or [7] (world, wxyz) and openings of the drawers [3] (m; None: closed), with
        the objects of the last episode.

        The success rule treats these poses as settled.
        """
        data = self._data
        # Reset everything, since MuJoCo's solver starts from its last forces.
        mujoco.mj_resetData(self.model, data)
        self._set_robot(qpos[: self._num_joints])
        self._poses[:] = poses
        if drawers is not None:
            self._drawers[:] = drawers
        mujoco.mj_forward(self.model, data)
        self._controller.reset(data.qpos[: self._num_joints])
        self._rule = self.task.rule(self._episode, self._see())
        self._elapsed = 0

    def advance(self, action: np.ndarray) -> dict[str, Any]:
        action = check_action(action).astype(np.float64)
        model, data = self.model, self._data
        q, qdot = data.qpos[: self._num_joints], data.qvel[: self._num_joints]
        for targets in self._controller.drive_targets(action, q, qdot):
            data.ctrl[:] = targets
            mujoco.mj_step(model, data)
        # Poses of the state just reached; contacts stay those of the last physics step.
        mujoco.mj_kinematics(model, data)
        self._elapsed += 1
        return {**self._info(), **self._rule.update(self._see())}

    def observe(self) -> dict[str, Any]:
        assert self._renderer is not None
        state = self._state()
        return {
            "image": self._renderer.render(self._data),
            "instruction": self.task.instructions(self._episode)[self._rule.stage],
            "proprio": proprio_vector(state["tool_pose"], state["base_pose"], state["gripper"]),
        }

    def _info(self) -> dict[str, Any]:
        return {"elapsed_steps": self._elapsed, "state": self._state()}

    def _state(self) -> dict[str, Any]:
        data, qpos = self._data, self._data.qpos
        rotation = data.site_xmat[self._tool].reshape(3, 3)
        return robot_state(
            tool_pose=np.concatenate([data.site_xpos[self._tool], _quaternion(rotation)]),
            objects=self._poses.copy(),
            base_pose=self.base_pose.copy(),
            qpos=np.concatenate([qpos[: self._num_joints], self._robot.unmoved]),
            closedness=self._robot.closedness(qpos[self._fingers]),
            drawers=self._openings(),
        )

    @property
    def _poses(self) -> np.ndarray:
        """The objects' poses [n, 7], a view of the state."""
        first = self._num_joints
        return self._data.qpos[first : first + 7 * len(self._objects)].reshape(-1, 7)

    @property
    def _drawers(self) -> np.ndarray:
        """How far the drawers are open (m) [3], a view of the state; empty without drawers."""
        return self._data.qpos[self._num_joints + 7 * len(self._objects) :]

    def _openings(self) -> np.ndarray | None:
        return self._drawers.copy() if len(self._drawers) else None

    def _see(self) -> Seen:
        """The objects, and their contacts in the last physics step as impulses."""
        data, model = self._data, self.model
        bodies, step = model.geom_bodyid, model.opt.timestep
        parts = [body for side in self._sides for body in side]
        on_part = [{body: np.zeros(3) for body in parts} for _ in self._objects]
        others: list[set[str]] = [set() for _ in self._objects]
        force, impulse = np.empty(6), np.empty(3)
        for index in range(data.ncon):
            contact = data.contact[index]
            first, second = int(bodies[contact.geom1]), int(bodies[contact.geom2])
            pairs = [
                (self._objects[body], other)
                for body, other in ((first, second), (second, first))
                if body in self._objects
            ]
            if not pairs:
                continue
            mujoco.mj_contactForce(model, data, index, force)
            mujoco.mju_mulMatTVec(impulse, contact.frame.reshape(3, 3), force[:3])
            impulse *= step  # on the second body
            for item, other in pairs:
                if not self._robot_body[other]:
                    if math.hypot(*impulse) > MIN_IMPULSE:
                        others[item].add(model.body(other).name)
                elif other in on_part[item]:
                    on_part[item][other] += impulse if other == second else -impulse
        opening = {body: data.xmat[body].reshape(3, 3)[:, 1].copy() for body in parts}
        touches = (
            Touch(
                frozenset(names),
                tuple(tuple((on[body], opening[body]) for body in side) for side in self._sides),
            )
            for on, names in zip(on_part, others, strict=True)
        )
        return Seen(self._poses.copy(), tuple(touches), self._openings())

    def provenance(self) -> dict[str, Any]:
        return {
            "simulator": self.simulator,
            "task": self.task.name,
            **named_robot(self.task),
            "mujoco": mujoco.__version__,
            "ruckig": version("ruckig"),
            "machine": platform.machine(),
            "renderer": self._renderer_name,
            "image_size": list(self.image_size),
            "physics_sha256": scene.physics_fingerprint(self.task),
        }

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()


def _is_at_rest(speed: np.ndarray) -> bool:
    """Whether an object moves at less than `_AT_REST`; speed [6] (m/s, rad/s)."""
    return math.hypot(*speed[:3]) < _AT_REST[0] and math.hypot(*speed[3:]) < _AT_REST[1]


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """Quaternion wxyz, w >= 0, of a rotation matrix [3, 3]."""
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).reshape(9))
    return quaternion if quaternion[0] >= 0 else -quaternion
