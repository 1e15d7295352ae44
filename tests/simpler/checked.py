"""The adapter with a check that only the simulator's own process can make."""

import os

import numpy as np

from selfflow_robotics.envs.simpler.env import SimplerEnv
from selfflow_robotics.envs.simpler.robots import ROBOTS


class CheckedEnv(SimplerEnv):
    """Compares each frame with the one that SIMPLER makes in its own, slower way."""

    def __init__(self, task, image_size):
        super().__init__(task, image_size, path=os.environ["SIMPLER_ENV_PATH"])

    def observe(self):
        observation = super().observe()
        simulation, camera = self._simulation, ROBOTS[self.task.robot.name].camera
        simulation._obs_mode = "image"
        color = simulation.get_obs()["image"][camera]["Color"][..., :3]
        simulation._obs_mode = "none"
        np.testing.assert_array_equal(
            self._camera.render(), np.clip(color * 255, 0, 255).astype(np.uint8)
        )
        return observation
