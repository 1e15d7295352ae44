"""SIMPLER's tasks, simulated by SIMPLER itself (SAPIEN, Xuanlin Li et al. 2024, arXiv 2405.05941).

Runs in SIMPLER's own Python environment, in a separate process (`envs.client`); it needs numpy
below 2. Episodes are bit-identical to SIMPLER's. The scene is rebuilt for each episode, because
with a plain reset the object's resting pose depends on the previous episode, and contacts amplify
the difference. Success is SIMPLER's own.
"""

import subprocess
import sys
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.envs.base import RobotEnv, check_action, named_robot, robot_state
from selfflow_robotics.envs.episodes import draw_start
from selfflow_robotics.envs.simpler.assets import (
    check_assets,
    invisible_models,
    is_stand_in,
    missing_variants,
)
from selfflow_robotics.envs.simpler.camera import OverheadCamera
from selfflow_robotics.envs.simpler.robots import ROBOTS, colours_of
from selfflow_robotics.envs.simpler.shim import relax_sapien
from selfflow_robotics.envs.simpler.vulkan import list_devices, missing_device
from selfflow_robotics.envs.tasks.base import DRAWERS, Task
from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.actions import ARM, GRIPPER
from selfflow_robotics.robot.observation import proprio_vector, resize_image


class SimplerEnv(RobotEnv):
    """One task of SIMPLER. See `envs.base.RobotEnv` for observations, actions and info.

    Further option: `robot_variant`, one of the robot's colours (`robots.ROBOTS`). `info` also has
    the flags of the task's `SimplerBinding` (bool, SIMPLER's meaning).
    """

    simulator = "simpler"
    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's name and type)

    def __init__(
        self,
        task: Task,
        image_size: tuple[int, int] = (256, 320),
        path: str | None = None,
        allow_invisible: bool = False,
    ) -> None:
        """image_size: (height, width), reduced from the camera's 512 x 640 (WidowX: 480 x 640,
        stretched). path: the SimplerEnv checkout; None if its packages are installed.
        allow_invisible: also play with objects that have no visual mesh.

        Raises UserError, with the fix, if something that SIMPLER needs is missing.
        """
        super().__init__(task, image_size)
        self._binding, self._robot = task.bound(), ROBOTS[task.robot.name]
        self._sapien, self._assets, self._devices = _load(path)
        check_assets(task, self._assets, allow_invisible)
        self._missing = {} if allow_invisible else missing_variants(task, self._assets)
        self._episode = draw_start(task, 0, {}, robot_variant=colours_of(task))
        self._simulation = self._make_simulation()
        self._camera = OverheadCamera(self._simulation, self._robot.camera)

    def _make_simulation(self) -> Any:
        binding, robot, photograph = self._binding, self._robot, self._photograph()
        settings = {
            "obs_mode": "none",  # a step renders nothing; `observe` does
            "robot": robot.uid,
            "sim_freq": robot.sim_hz,
            "control_freq": round(self.task.robot.control_hz),
            "control_mode": robot.control_mode,
            "scene_name": binding.stage,
            "camera_cfgs": {"add_segmentation": True},
            "rgb_overlay_path": str(photograph) if photograph else None,
            "rgb_overlay_cameras": [robot.camera] if photograph else [],
            "disable_env_checker": True,
            **binding.settings,
        }
        made = import_module("gymnasium").make(binding.env_id, **settings)
        # Without gymnasium's wrappers, whose reset and step differ between its versions.
        return made.unwrapped

    def _photograph(self) -> Path | None:
        overlay = self._binding.overlay
        return self._assets / overlay.format(**self._episode) if overlay else None

    # -- episodes -------------------------------------------------------------------------------

    def begin(self, seed: int, options: dict[str, Any]) -> dict[str, Any]:
        task, simulation = self.task, self._simulation
        episode = draw_start(task, seed, options, robot_variant=colours_of(task))
        scene, robot = task.scene(episode), episode["robot_variant"]
        if episode["variant"] in self._missing:
            raise UserError(self._missing[episode["variant"]])
        self._episode, self._last_gripper = episode, -1.0  # open
        if photograph := self._photograph():
            self._camera.show_behind(photograph)
        for name, value in self._binding.attributes(episode).items():
            setattr(simulation, name, value)
        simulation.urdf_version = "" if robot == "base" else robot
        simulation._configure_agent()  # as SIMPLER does after a change of urdf_version
        simulation.reset(
            seed=seed % 2**32,
            options={
                "reconfigure": True,
                "robot_init_options": {
                    "init_xy": list(scene.base_xy),
                    "init_rot_quat": list(scene.base_quaternion),
                },
                "obj_init_options": self._binding.object_options(episode),
            },
        )
        return {
            "success": False,
            **dict.fromkeys(self._binding.flags, False),
            "elapsed_steps": 0,
            "state": self._state(),
            "episode": episode,
        }

    def advance(self, action: np.ndarray) -> dict[str, Any]:
        *_, info = self._simulation.step(self._in_simplers_terms(check_action(action)))
        return {
            "success": bool(info["success"]),
            **{flag: bool(info[flag]) for flag in self._binding.flags},
            "elapsed_steps": int(info["elapsed_steps"]),
            "state": self._state(),
        }

    def _in_simplers_terms(self, action: np.ndarray) -> np.ndarray:
        if not self._robot.gripper_is_state:
            return action
        self._last_gripper = float(action[GRIPPER]) or self._last_gripper
        return np.append(action[ARM], np.float32(-self._last_gripper))

    # -- what is seen ---------------------------------------------------------------------------

    def observe(self) -> dict[str, Any]:
        state = self._state()
        # SIMPLER itself counts the stages of its tasks that have several.
        stage = getattr(self._simulation, "cur_subtask_id", 0)
        return {
            "image": resize_image(self._camera.render(), self.image_size),
            "instruction": self.task.instructions(self._episode)[stage],
            "proprio": proprio_vector(state["tool_pose"], state["base_pose"], state["gripper"]),
        }

    def _state(self) -> dict[str, Any]:
        simulation = self._simulation
        agent = simulation.agent
        closedness = float(agent.get_gripper_closedness())
        objects = [_pose(actor.pose) for actor in self._binding.objects(simulation)]
        cabinet = getattr(simulation, "art_obj", None)
        drawers = None if cabinet is None else _openings(cabinet)
        return robot_state(
            tool_pose=_pose(simulation.tcp.pose),
            objects=np.array(objects).reshape(-1, 7),
            base_pose=_pose(agent.robot.pose),
            qpos=np.asarray(agent.robot.get_qpos(), np.float64),
            closedness=closedness,
            drawers=drawers,
        )

    def provenance(self) -> dict[str, Any]:
        stage_file = self._binding.stage_file
        stage = self._assets / stage_file if stage_file else None
        repository = self._assets.parent
        invisible = invisible_models(self.task, self._assets)
        return {
            "simulator": self.simulator,
            "task": self.task.name,
            **named_robot(self.task),
            "sapien": self._sapien.__version__,
            "numpy": np.__version__,
            "python": sys.version.split()[0],
            "simpler_env_commit": _commit(repository.parent),
            "maniskill2_real2sim_commit": _commit(repository),
            "vulkan_devices": [f"{device.name}, {device.driver}" for device in self._devices],
            "image_size": list(self.image_size),
            "stage": stage.name if stage else self._binding.stage,
            "stage_sha256": sha256(stage.read_bytes()).hexdigest() if stage else None,
            "stage_is_stand_in": bool(stage) and is_stand_in(stage),
            **({"invisible": invisible} if invisible else {}),
        }

    def close(self) -> None:
        self._simulation.close()


def _load(path: str | None) -> tuple[Any, Path, list[Any]]:
    """Import SAPIEN and SIMPLER's environments: (sapien, asset folder, Vulkan devices)."""
    if int(np.__version__.split(".")[0]) >= 2:
        # There would be no error: the object falls through the table, then the process crashes.
        raise UserError(
            f"SIMPLER needs numpy below 2, but its Python has {np.__version__}: use a separate "
            "Python environment (SIMPLER_PYTHON or simpler.python=)"
        )
    if path is not None:
        sys.path[:0] = [path, str(Path(path) / "ManiSkill2_real2sim")]
    try:
        devices = list_devices()
        sapien = import_module("sapien")
        import_module("sapien.core")
        if problem := missing_device(devices):
            raise UserError(problem)
        relax_sapien(devices)
        real2sim = import_module("mani_skill2_real2sim")
        import_module("mani_skill2_real2sim.envs")  # registers the environments
    except ModuleNotFoundError as error:
        raise UserError(f"SIMPLER's Python lacks the module {error.name}") from error
    except (ImportError, OSError) as error:
        raise UserError(f"a system library that SAPIEN needs is missing: {error}") from error
    return sapien, Path(real2sim.ASSET_DIR), devices


def _pose(pose: Any) -> np.ndarray:
    return np.concatenate([pose.p, pose.q]).astype(np.float64)


def _openings(cabinet: Any) -> np.ndarray:
    """How far the cabinet's drawers stand open (m) [3], in the order of `DRAWERS`."""
    names = [joint.name for joint in cabinet.get_active_joints()]
    qpos = np.asarray(cabinet.get_qpos(), np.float64)
    return qpos[[names.index(f"{drawer}_drawer_joint") for drawer in DRAWERS]]


def _commit(folder: Path) -> str | None:
    """The commit checked out in `folder`; None if it is not the top of a git checkout."""
    command = ["git", "-C", str(folder), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    top, commit = done.stdout.split("\n")[:2]
    return commit if Path(top) == folder.resolve() else None
