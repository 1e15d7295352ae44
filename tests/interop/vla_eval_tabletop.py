"""A benchmark of vla-eval's own kind that drives the tabletop, for `vla-eval run`."""

from typing import Any

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.specs import GRIPPER_CLOSE_POS, IMAGE_RGB, LANGUAGE, POSITION_DELTA, ROTATION_AA

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimulatorSpec


class TabletopBenchmark(StepBenchmark):
    """Gripper as vla-eval's SIMPLER benchmark reads it: above 0.5 is +1, else -1."""

    def __init__(
        self, python: str, task: str = "pick_coke_can", steps: int = 80, gripper_mode: str = "?"
    ) -> None:
        super().__init__()
        assert gripper_mode == "binary", "the server's observation_params did not arrive"
        self.task, self.steps = task, steps
        self.simulator = SimulatorClient(SimulatorSpec(task=task, python=python))

    def get_tasks(self) -> list[dict[str, Any]]:
        return [{"name": self.task, "task_name": self.task}]

    def reset(self, task: dict[str, Any]) -> Any:
        seed = int(task.get("episode_idx", 0))
        self.count = 0
        reply = self.simulator.call("reset", task=self.task, seed=seed, options={}, observe=True)
        return reply["observation"]

    def step(self, action: dict[str, Any]) -> StepResult:
        vector = np.array(action["actions"], np.float32)
        vector[6] = 1.0 if vector[6] > 0.5 else -1.0
        arguments = {"actions": vector[None], "observe": "all", "stop_after_success": 0}
        reply = self.simulator.call("run", **arguments)
        self.count += 1
        info, is_over = reply["infos"][-1], self.count >= self.steps
        success = {"success": bool(info["success"])}
        return StepResult(reply["observations"][-1], 0.0, is_over, success)

    def make_obs(self, raw_obs: Any, task: dict[str, Any]) -> dict[str, Any]:
        return {
            "images": {"primary": raw_obs["image"]},
            "task_description": raw_obs["instruction"],
            "task_name": self.task,
        }

    def get_step_result(self, step_result: StepResult) -> dict[str, Any]:
        return step_result.info

    def get_action_spec(self) -> dict[str, Any]:
        return {"position": POSITION_DELTA, "rotation": ROTATION_AA, "gripper": GRIPPER_CLOSE_POS}

    def get_observation_spec(self) -> dict[str, Any]:
        return {"primary": IMAGE_RGB, "language": LANGUAGE}

    def cleanup(self) -> None:
        self.simulator.close()
