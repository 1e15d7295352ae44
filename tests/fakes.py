"""A robot without physics, to test everything around a simulator in milliseconds.

The arm follows a third of each command as SIMPLER's does; the object sticks to a gripper that
closes near it. Faults are asked for by options: `{"fault": "crash" | "hang" | "raise", "at": n}`
for step n; `{"only_before": path}` makes the fault happen only while that file does not exist (it
is created).
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.envs.base import RobotEnv, robot_state
from selfflow_robotics.envs.tasks.base import Range

FOLLOW = 0.35
FINGER_STEP = 0.25
REACH_M = 0.025


class FakeEnv(RobotEnv):
    simulator = "fake"

    def begin(self, seed: int, options: dict[str, Any]) -> dict[str, Any]:
        self.options = options
        rng = np.random.Generator(np.random.PCG64(seed))
        variant = options.get("variant") or str(rng.choice(self.task.variants))
        place = self.task.starts["object_xy"]
        assert isinstance(place, Range)
        xy = options.get("object_xy") or place.draw(rng)
        self.tool = np.array([-0.08, 0.42, 1.04]) + rng.normal(0, 0.01, 3)
        self.object = np.array([*xy, 0.95])
        self.gripper, self.target = 0.0, 0.0
        self.elapsed, self.held, self.height = 0, False, self.object[2]
        self._fail_if_asked()
        return {
            **self._info(),
            "episode": {"variant": variant, "object_xy": [float(v) for v in xy]},
        }

    def advance(self, action: np.ndarray) -> dict[str, Any]:
        print("a simulator prints what it likes")
        self.elapsed += 1
        self._fail_if_asked()
        move = FOLLOW * np.asarray(action[:3], float) * [-1, -1, 1]  # base axes to the world's
        self.tool = self.tool + move
        self.target = float(np.clip(self.target + action[6], 0, 1))
        self.gripper += float(np.clip(self.target - self.gripper, -FINGER_STEP, FINGER_STEP))
        if self.gripper > 0.7 and np.linalg.norm(self.tool - self.object) < REACH_M:
            self.held = True
        self.held = self.held and self.gripper > 0.7
        if self.held:
            self.object = self.object + move
        return self._info()

    def observe(self) -> dict[str, Any]:
        image = np.zeros((*self.image_size, 3), np.uint8)
        image[..., 0] = self.elapsed
        image[..., 1:] = np.uint8(255 * np.clip(np.abs(self.tool[:2]), 0, 1))
        proprio = np.array([*self.tool, 0, 0, 0, 1, self.gripper], np.float32)
        return {"image": image, "instruction": self.task.instructions({})[0], "proprio": proprio}

    def provenance(self) -> dict[str, Any]:
        return {"simulator": "fake"}

    def _info(self) -> dict[str, Any]:
        down = [0.0, 0.0, 1.0, 0.0]  # tool z points down, tool y along world y
        return {
            "success": bool(self.held and self.object[2] > self.height + 0.01),
            "elapsed_steps": self.elapsed,
            "state": robot_state(
                tool_pose=np.array([*self.tool, *down]),
                objects=np.array([[*self.object, 0.5**0.5, 0.5**0.5, 0, 0]]),
                base_pose=np.array([0.35, 0.2, 0.079, 0, 0, 0, 1.0]),
                qpos=np.zeros(11),
                closedness=self.gripper,
            ),
        }

    def _fail_if_asked(self) -> None:
        if self.options.get("fault") is None or self.elapsed != self.options.get("at", 0):
            return
        if marker := self.options.get("only_before"):
            if Path(marker).exists():
                return
            Path(marker).touch()
        if self.options["fault"] == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.options["fault"] == "hang":
            time.sleep(1e6)
        raise RuntimeError("the fake robot is broken")
