"""The policy interface: from observations to action chunks, for several episodes at once."""

from typing import Any, Protocol

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec


class Policy(Protocol):
    """Chooses actions for episodes running in numbered slots.

    `privileged` policies (scripted experts) get each episode's `info`; others get None, so that
    they only see the image and the instruction. With `looks = False`, observations may be empty, as
    nothing is rendered.
    """

    name: str
    privileged: bool

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        """A new episode starts in `slot`; reset its state."""

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None,
    ) -> list[np.ndarray]:
        """The actions to execute before the next observation, per slot: float32 [h, 7], h >= 1.

        Actions have the environment's format (`envs.base`).
        """
        ...
