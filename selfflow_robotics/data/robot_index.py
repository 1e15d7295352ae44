"""What training reads of a robot data set, whatever its format: small values in memory, frames by
number. `data.rlds.index` and `data.lerobot.index` are the two formats."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfflow_robotics.data.index_tables import LEFT_OUT
from selfflow_robotics.data.rlds.schema import Layout
from selfflow_robotics.robot.observation import resize_image

logger = logging.getLogger(__name__)


class RobotIndex(ABC):
    """One split of a data set on disk. Steps are numbered 0 to num_frames - 1 over all episodes.

    | attribute      | type            | meaning                                              |
    |----------------|-----------------|------------------------------------------------------|
    | episode_start  | int64 [E]       | the first step of each episode                       |
    | episode_length | int64 [E]       | its number of steps, at least 2                      |
    | success        | bool [E]        | recorded as a success (aspects/success)              |
    | failed         | bool [E]        | recorded as a failure; data may say neither          |
    | actions        | float32 [N, 7]  | policy vectors (`robot.actions`), metres and radians |
    | proprio        | float32 [N, 8]  | tool xyz (m), quaternion xyzw, gripper_closed        |
    | image_size     | (int, int)      | height, width of the stored images                   |
    | disturbed      | bool [E]        | the recorded actions are not all that moved the arm  |
    | provenance     | dict            | the data set's name, and how it was made if told     |
    | layout         | Layout or None  | whose conventions it has, RT-1's or Bridge's         |
    | left_out       | dict[str, int]  | episodes that are not in the index, counted by cause |
    """

    def __init__(
        self,
        tables: dict[str, Any],
        provenance: dict[str, Any],
        disturbed: np.ndarray,
        layout: Layout | None,
    ) -> None:
        self.layout = layout
        self.provenance = provenance
        self.disturbed = disturbed
        self.episode_start = tables["episode_start"]
        self.episode_length = tables["episode_length"]
        self.success = tables["success"]
        self.failed = tables["failed"]
        self.actions = tables["actions"]
        self.proprio = tables["proprio"]
        self.instructions: list[str] = tables["instructions"]
        self.left_out = dict(zip(LEFT_OUT, tables["left_out"].tolist(), strict=True))
        self._instruction = tables["instruction"]
        self.num_episodes = len(self.episode_start)
        self.num_frames = len(self.actions)
        height, width = tables["image_size"].tolist()
        self.image_size: tuple[int, int] = (height, width)

    def warn_of_left_out(self, directory: object) -> None:
        """Log how many episodes of `directory` were left out, a line for each cause."""
        for cause, count in self.left_out.items():
            if count:
                logger.warning("%s: %d episodes left out: %s", directory, count, cause)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the episodes' content, independent of paths."""

    @abstractmethod
    def frame(self, frame: int) -> np.ndarray:
        """The image of one step, uint8 [H, W, 3]. Thread-safe.

        Raises UserError naming the file, episode and step if it cannot be decoded.
        """

    def read_frames(self, frames: Sequence[int] | np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Images of these steps, resized: uint8 [N, *size, 3]. Raises UserError as `frame`."""
        pictures = np.empty((len(frames), *size, 3), np.uint8)
        for row, frame in enumerate(frames):
            pictures[row] = resize_image(self.frame(int(frame)), size)
        return pictures

    @property
    def first_instructions(self) -> np.ndarray:
        """int32 [E], the instruction of each episode's first step: a place in `instructions`."""
        return self._instruction[self.episode_start]

    def instruction_of(self, frame: int) -> str:
        """The instruction of a step; may be empty."""
        return self.instructions[self._instruction[frame]]

    def episode_of(self, frames: np.ndarray) -> np.ndarray:
        """The episode of each of the steps [...]."""
        return np.searchsorted(self.episode_start, frames, side="right") - 1

    def actions_of(self, episodes: Sequence[int]) -> np.ndarray:
        """The actions of the chosen episodes, one after the other: float32 [n, 7]."""
        starts, lengths = self.episode_start[episodes], self.episode_length[episodes]
        steps = [self.actions[a : a + n] for a, n in zip(starts, lengths, strict=True)]
        return np.concatenate(steps)
