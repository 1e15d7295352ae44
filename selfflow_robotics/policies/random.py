"""Random actions, the lower reference for trained policies."""

from typing import Any

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.rng import numpy_generator

# Standard deviation per axis of the scripted expert's commands (m, rad), by robot.
SCALES = {"google_robot": (0.05, 0.15), "widowx": (0.014, 0.035)}
GRIPPER_CHANGE_PROBABILITY = 0.05


class RandomPolicy:
    """Random actions in the demonstrations' range, depending only on the episode's seed.

    Steps are independent; the gripper opens and closes occasionally.
    """

    name = "random"
    privileged = False
    looks = False

    def __init__(self, seed: int = 0, horizon: int = 1) -> None:
        self.seed = seed
        self.horizon = horizon
        self._walks: dict[int, RandomWalk] = {}

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        """Start the random walk of this episode."""
        self._walks[slot] = RandomWalk(
            numpy_generator("random policy", self.seed, episode.seed),
            memory=0.0,
            robot=get_task(episode.task).robot.name,
        )

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None,
    ) -> list[np.ndarray]:
        """Chunks of `horizon` actions."""
        return [np.stack([self._walks[slot].step() for _ in range(self.horizon)]) for slot in slots]


class RandomWalk:
    """A stream of random actions (an Ornstein-Uhlenbeck process).

    `memory` is the correlation between consecutive commands, 0 to 1.
    """

    def __init__(self, generator: np.random.Generator, memory: float, robot: str) -> None:
        self.generator = generator
        self.scale = np.repeat(SCALES[robot], 3)
        self.memory = memory
        self.command = generator.normal(size=6)
        self.gripper = -1.0  # an episode starts open

    def step(self) -> np.ndarray:
        """The next action, float32 [7]."""
        fresh = self.generator.normal(size=6)
        self.command = self.memory * self.command + np.sqrt(1 - self.memory**2) * fresh
        if self.generator.random() < GRIPPER_CHANGE_PROBABILITY:
            self.gripper = -self.gripper
        return np.append(self.command * self.scale, self.gripper).astype(np.float32)
