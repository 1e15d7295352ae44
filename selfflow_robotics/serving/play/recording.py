"""Record what people play as an RLDS data set."""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.data.rlds.writer import RldsWriter
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.rollouts.demonstrations import FIRST_SEED, LAYOUTS, MIN_STEPS
from selfflow_robotics.rollouts.recorded_steps import recorded_steps


class PlayRecording:
    """One data set for all tabs, `root/name/0.N.0`: N is the first version that is not finished.

    So a recording that was killed goes on, and otherwise every run of the command begins a new
    version. Use as a context manager, which finishes the data set at its end.
    """

    def __init__(
        self,
        root: str | Path,
        name: str,
        task: Task,
        image_size: tuple[int, int],
        provenance: dict[str, Any],
    ) -> None:
        """`task`: any of those played, for the robot's features; `image_size`: (height, width) of
        the observations; `provenance`: the simulator's.

        Raises UserError as `RldsWriter`.
        """
        folder, number = Path(root).expanduser() / name, 1
        while (folder / f"0.{number}.0" / "dataset_info.json").exists():
            number += 1
        self._writer = RldsWriter(
            root,
            name,
            f"0.{number}.0",
            image_size,
            {**provenance, "recording": {"mode": "human play"}},
            layout=LAYOUTS[task.robot],
        )
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The data set's folder."""
        return self._writer.path

    @property
    def episodes(self) -> int:
        """Episodes so far, all on disk."""
        return self._writer.episodes_done

    @staticmethod
    def takes(seed: int) -> bool:
        """Whether episodes of this seed are recorded: lower ones are for evaluation."""
        return seed >= FIRST_SEED

    def write(
        self,
        observations: list[dict[str, Any]],
        actions: list[np.ndarray],
        success: bool,
        metadata: dict[str, Any],
    ) -> bool:
        """Append an episode (as `recorded_steps`); False if it is too short to be one."""
        if len(actions) < MIN_STEPS:
            return False
        steps = recorded_steps(observations, actions, success)
        told = {**metadata, "success": success, "disturbed": False, "unrecorded_steps": 0}
        with self._lock:
            self._writer.write_episode(steps, told)
        return True

    def __enter__(self) -> "PlayRecording":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._writer.episodes_done:
                self._writer.finish()
        finally:
            self._writer.close()
            if not self._writer.episodes_done:  # leave no empty folders
                with suppress(OSError):
                    self.path.rmdir()
                    self.path.parent.rmdir()
