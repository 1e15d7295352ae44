"""What a policy is: from observations to chunks of actions, for several episodes at once."""

from typing import Any, Protocol

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec


class Policy(Protocol):
    """Decides what to do in the episodes running in numbered slots.

    `privileged` policies (scripted experts) are handed each episode's `info`; all others get None
    in its place, so that nothing but the image and the words can reach them. One that sets
    `looks = False` is handed observations that may be empty: nothing is rendered for it.
    """

    name: str
    privileged: bool

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        """A new episode starts in `slot`: forget the one before."""

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None,
    ) -> list[np.ndarray]:
        """For each slot the actions to execute before looking again: float32 [h, 7], h >= 1.

        Actions are in the environment's meaning (`envs.base`).
        """
        ...
