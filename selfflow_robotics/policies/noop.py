"""The policy that does nothing, for load tests of policy servers and simulators."""

from typing import Any

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.robot.actions import ACTION_DIM


class NoopPolicy:
    """The arm stays where it is, and the gripper as it is."""

    name = "noop"
    privileged = False

    def __init__(self, horizon: int = 1) -> None:
        """`horizon`: actions per chunk."""
        self.horizon = horizon

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        pass

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None,
    ) -> list[np.ndarray]:
        """Chunks of zeros, float32 [horizon, 7]."""
        return [np.zeros((self.horizon, ACTION_DIM), np.float32) for _ in slots]
