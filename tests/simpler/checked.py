"""The adapter with a check that only the simulator's own process can make."""

import os
from importlib import import_module
from pathlib import Path

import numpy as np

from selfflow_robotics.envs.simpler.env import SimplerEnv
from selfflow_robotics.envs.simpler.robots import ROBOTS


class CheckedEnv(SimplerEnv):
    """Compares each frame, and the instruction, with those that SIMPLER makes in its own way."""

    def __init__(self, task, image_size):
        path = os.environ["SIMPLER_ENV_PATH"]
        super().__init__(task, image_size, path, allow_invisible=True)
        shader = import_module("sapien.core").render_config.camera_shader_dir
        assert Path(shader).name == "ibl"  # rasterised

    def observe(self):
        observation = super().observe()
        simulation, camera = self._simulation, ROBOTS[self.task.robot.name].camera
        simulation._obs_mode = "image"
        color = simulation.get_obs()["image"][camera]["Color"][..., :3]
        simulation._obs_mode = "none"
        np.testing.assert_array_equal(
            self._camera.render(), np.clip(color * 255, 0, 255).astype(np.uint8)
        )
        assert observation["instruction"] == simulation.get_language_instruction()
        return observation
