"""One tab's game: an episode in the simulator and, under the same actions, in the world model.

Everything here blocks. The server calls a session's methods in threads, one at a time.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.inference.imagination import Imagination
from selfflow_robotics.inference.imagine import imagine, psnr
from selfflow_robotics.policies.chunk_sampler import Seen
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.robot.actions import (
    GRIPPER,
    environment_from_policy,
    policy_from_environment,
)
from selfflow_robotics.robot.observation import resize_image
from selfflow_robotics.serving.play.controls import action_of
from selfflow_robotics.serving.play.recording import PlayRecording

MAX_SEED = 2**31 - 1  # of simulators
MOST_STEPS = 500  # control steps of an episode, which waits in memory until its end


@dataclass(frozen=True)
class View:
    """What a tab shows after a step: two frames uint8 [h, w, 3] at the network's size, and what is
    said of them."""

    imagined: np.ndarray
    truth: np.ndarray
    told: dict[str, Any]


def intended_actions(policy: FlowPolicy, view: View) -> np.ndarray:
    """The chunk that the policy answers the imagined frame of `view` with: policy vectors
    [horizon, 7]. Its noise depends on the episode's seed and the step alone."""
    sampler = policy.sampler
    noise = sampler.noise(view.told["seed"], view.told["step"])
    tokens = sampler.chunks([Seen(view.imagined, view.told["instruction"])], [noise])
    return sampler.decode(tokens)[0]


def imagine_future(policy: FlowPolicy, view: View, num_steps: int) -> np.ndarray:
    """What the policy intends, imagined with `num_steps` solver steps: frames uint8 [F, h, w, 3]
    after the imagined one of `view`."""
    bundle = policy.bundle
    actions = intended_actions(policy, view)[: bundle.most_imagined * bundle.frame_stride]
    words = [view.told["instruction"]]
    return imagine(bundle, view.imagined[None], actions[None], words, num_steps=num_steps)[0]


class PlaySession:
    """The episode of one tab. Use as a context manager, which records the last episode and ends the
    simulator."""

    view: View  # the last one; none before the first `reset`

    def __init__(
        self,
        client: SimulatorClient,
        tasks: Mapping[str, Task],
        imagination: Imagination,
        policy: FlowPolicy | None,
        recording: PlayRecording | None,
    ) -> None:
        """`tasks`: those that can be chosen; `policy` None: the network has none; `recording` None:
        nothing is recorded."""
        self.client, self.tasks, self.recording = client, tasks, recording
        self.imagination, self.policy = imagination, policy
        self.is_running = False  # an episode, in a simulator that has not failed
        self._observations: list[dict[str, Any]] = []
        self._actions: list[np.ndarray] = []
        self._plan: deque[np.ndarray] = deque()

    def reset(self, task: object, seed: object) -> View:
        """Record the last episode and begin another. Raises UserError for a task or seed that
        cannot be played, SimulatorError if the simulator fails."""
        if not isinstance(task, str) or task not in self.tasks:
            raise unknown("task", str(task)[:60], self.tasks)
        if type(seed) is not int or not 0 <= seed <= MAX_SEED:
            raise UserError(f"the seed must be an integer from 0 to {MAX_SEED}")
        self.end()
        began = time.perf_counter()
        start = self.client.call("reset", seed=seed, options={}, task=task)
        drawn = start["info"]["episode"]
        self._episode = EpisodeSpec(task, drawn["variant"], seed)
        self._drawn, self._success, self._is_closed = drawn, False, False
        self._observations, self._actions = [start["observation"]], []
        self.is_running = True
        self.imagination.start(self._truth(), self._instruction)
        return self._show(time.perf_counter() - began)

    def act(self, keys: Sequence[str], toggle: bool = False, slow: bool = False) -> View:
        """One step of the world model, which is `control_steps` of the simulator, with the keys
        held; `toggle` opens or closes the gripper.

        Raises UserError without an episode and when it is too long, SimulatorError if the simulator
        fails.
        """
        self._check_running()
        self._plan.clear()
        self._is_closed ^= toggle
        action = action_of(keys, self._is_closed, slow)
        return self._step(np.tile(action, (self.imagination.control_steps, 1)))

    def act_as_policy(self) -> View:
        """One step of the policy, which sees the imagined frame. Raises as `act`."""
        self._check_running()
        if self.policy is None:
            raise UserError("this checkpoint has no policy (it was not trained with that role)")
        count = self.imagination.control_steps
        if len(self._plan) < count:
            self._plan = deque(environment_from_policy(intended_actions(self.policy, self.view)))
        actions = np.stack([self._plan.popleft() for _ in range(count)])
        self._is_closed = bool(actions[-1, GRIPPER] > 0)
        return self._step(actions)

    def resync(self) -> View:
        """Put the simulator's frame in the place of the imagined one. Raises as `act`."""
        self._check_running()
        self._plan.clear()
        self.imagination.start(self._truth(), self._instruction)
        return self._show(0.0)

    def end(self) -> None:
        """Record the episode, if there is one to record.

        Raises UserError if it cannot be written; it stays in memory then, for another try.
        """
        self.is_running = False
        self._plan.clear()
        if (
            self.recording is not None
            and self._actions
            and self.recording.takes(self._episode.seed)
        ):
            spec = self._episode
            told = {"task": spec.task, "seed": spec.seed, "variant": spec.variant}
            told["drawn"] = self._drawn
            self.recording.write(self._observations, self._actions, self._success, told)
        self._observations, self._actions = [], []

    def __enter__(self) -> "PlaySession":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end()
        finally:
            self.client.close()

    @property
    def _instruction(self) -> str:
        return self._observations[-1]["instruction"]

    def _truth(self) -> np.ndarray:
        return resize_image(
            self._observations[-1]["image"], self.imagination.bundle.frames.image_size
        )

    def _check_running(self) -> None:
        if not self.is_running:
            raise UserError("no episode is running; begin a new one")
        if len(self._actions) + self.imagination.control_steps > MOST_STEPS:
            raise UserError(
                f"an episode has at most {MOST_STEPS} steps, and this one is there; begin a new one"
            )

    def _step(self, actions: np.ndarray) -> View:
        """One step in the simulator, whose process works while the network imagines it."""
        began = time.perf_counter()
        self.client.submit("run", actions=actions, observe="all")
        self.imagination.step(policy_from_environment(actions))
        imagined_s = time.perf_counter() - began
        reply = self.client.result()
        self._actions.extend(actions)
        self._observations.extend(reply["observations"])
        self.imagination.instruction = self._instruction  # of the task's stage
        self._success = bool(reply["infos"][-1]["success"])
        seconds = time.perf_counter() - began
        return self._show(seconds, imagined_s)

    def _show(self, seconds: float, imagined_s: float = 0.0) -> View:
        imagined, truth = self.imagination.frame, self._truth()
        is_recorded = self.recording is not None and self.recording.takes(self._episode.seed)
        told = {
            "task": self._episode.task,
            "seed": self._episode.seed,
            "instruction": self._instruction,
            "step": len(self._actions),
            "imagined_steps": self.imagination.steps,
            # Equal frames, as after a reset, have an infinite PSNR.
            "psnr_db": None if not self.imagination.steps else float(psnr(imagined, truth)),
            "gripper": "closed" if self._is_closed else "open",
            "success": self._success,
            "is_recorded": is_recorded,
            "recorded_episodes": 0 if self.recording is None else self.recording.episodes,
            "step_ms": round(1e3 * seconds, 1),
            "imagined_ms": round(1e3 * imagined_s, 1),
        }
        self.view = View(imagined, truth, told)
        return self.view
