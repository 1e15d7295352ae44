"""Read and check the episodes of a LeRobot data set: all numbers, and the length of the videos."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.data.lerobot.episodes import EpisodeFiles, read_parquet
from selfflow_robotics.data.lerobot.info import ACTION, STATE, LeRobotInfo
from selfflow_robotics.data.lerobot.video import VideoFacts, read_facts
from selfflow_robotics.data.rlds.schema import BRIDGE
from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.actions import GRIPPER
from selfflow_robotics.robot.bridge import policy_from_bridge, proprio_from_state

_AGAIN = "copy it again, or convert the data set again"
# Bridge's `observation.state` has a number without meaning before the gripper.
_WITHOUT_PAD = [0, 1, 2, 3, 4, 5, 7]
_WIDTHS = {ACTION: 7, STATE: 8}
# Kinds of numpy types of the other columns.
_KINDS = {
    "episode_index": "iu",
    "frame_index": "iu",
    "timestamp": "fiu",
    "task_index": "iu",
    "next.success": "bfiu",
}
_SLACK = 0.1  # of a frame, between a stored time and the frame's number


class EpisodeScanner:
    """Reads one episode after another; the last files stay in memory, as they have many."""

    def __init__(self, info: LeRobotInfo, tasks: Mapping[int, str]) -> None:
        self._info, self._tasks = info, tasks
        self._path, self._columns = Path(), {}
        self._video, self._facts = Path(), VideoFacts(0, (0, 0), 0.0)

    def read(self, files: EpisodeFiles) -> dict[str, Any]:
        """The values of an episode of T steps.

        | key             | type           | meaning                                     |
        |-----------------|----------------|---------------------------------------------|
        | actions         | float32 [T, 7] | policy vectors (`robot.actions`)            |
        | gripper_command | float32 [T]    | as stored, 1 open                           |
        | proprio         | float32 [T, 8] | tool xyz, quaternion xyzw, closedness       |
        | texts           | list of T str  | instructions                                |
        | success, failed | bool           | as recorded; both false: unknown            |

        Raises UserError naming the file and episode if it is damaged, if its length is not that of
        the metadata and the video, or if its numbers cannot mean what they should.
        """
        columns, where = self._rows(files), f"{files.data}: episode {files.number}"
        self._check_times(columns, where)
        self._check_video(files)
        actions, state = columns[ACTION], columns[STATE]
        gripper_command = actions[:, GRIPPER].copy()
        finite = gripper_command[np.isfinite(gripper_command)]
        if len(finite) and not -0.1 <= finite.min() <= finite.max() <= 1.1:
            raise UserError(
                f"{where}: the gripper's action is from {finite.min():g} to {finite.max():g}; 0 "
                "(closed) to 1 (open) is needed: convert relative commands to states"
            )
        unknown = {int(task) for task in columns["task_index"]} - {*self._tasks}
        if unknown:
            raise UserError(
                f"{where}: task_index {min(unknown)} is none of those in meta/; {_AGAIN}"
            )
        if self._info.layout is BRIDGE:
            state = proprio_from_state(state[:, _WITHOUT_PAD])
        told = columns.get("next.success")
        return {
            "actions": policy_from_bridge(actions),
            "gripper_command": gripper_command,
            "proprio": state,
            "texts": [self._tasks[int(task)] for task in columns["task_index"]],
            "success": told is not None and bool(told.any()),
            "failed": told is not None and not told.any(),
        }

    def _rows(self, files: EpisodeFiles) -> dict[str, np.ndarray]:
        """The columns of one episode."""
        if files.data != self._path:
            self._columns = self._read_file(files.data)
            self._path = files.data
        columns, stored = self._columns, self._columns["episode_index"]
        mine = slice(*np.searchsorted(stored, [files.number, files.number + 1]))
        if files.is_alone and len(stored) and not (stored == files.number).all():
            raise UserError(f"{files.data}: it holds episode {stored[0]}; {_AGAIN}")
        count = mine.stop - mine.start
        if count != files.length:
            raise UserError(
                f"{files.data}: episode {files.number} has {count} steps, the metadata say "
                f"{files.length}; {_AGAIN}"
            )
        return {key: column[mine] for key, column in columns.items()}

    def _read_file(self, path: Path) -> dict[str, np.ndarray]:
        names = [*_WIDTHS, *(n for n in _KINDS if n != "next.success" or self._info.has_success)]
        table = read_parquet(path, names)
        columns = {}
        for name in names:
            if table.column_names.count(name) != 1:
                raise UserError(f"{path}: the column {name} is missing or there twice; {_AGAIN}")
            try:
                columns[name] = _numbers(table[name].combine_chunks(), name)
            except (TypeError, ValueError) as error:
                raise UserError(f"{path}: the column {name} is unusable ({error})") from error
        if (np.diff(columns["episode_index"]) < 0).any():
            raise UserError(f"{path}: its episodes are not in order; {_AGAIN}")
        return columns

    def _check_times(self, columns: dict[str, np.ndarray], where: str) -> None:
        frames = np.arange(len(columns["frame_index"]))
        if not np.array_equal(columns["frame_index"], frames):
            raise UserError(f"{where}: its steps are not numbered from 0; {_AGAIN}")
        times = columns["timestamp"].astype(np.float64)
        if (np.abs(times * self._info.fps - frames) > _SLACK).any():
            gap = float(np.median(np.diff(times)))
            raise UserError(
                f"{where}: its steps are {gap:.4g} s apart, but info.json says {self._info.fps:g} "
                "frames per second; correct fps"
            )

    def _check_video(self, files: EpisodeFiles) -> None:
        if files.video != self._video:
            self._facts, self._video = read_facts(files.video), files.video
        facts, where = self._facts, f"{files.video} (episode {files.number})"
        last = files.first + files.length
        if facts.size != self._info.image_size:
            (h, w), (height, width) = facts.size, self._info.image_size
            raise UserError(
                f"{where}: the frames have {h} x {w} px, but info.json says {height} x {width}; "
                f"{_AGAIN}"
            )
        if abs(facts.fps - self._info.fps) > 0.01 * self._info.fps:
            raise UserError(
                f"{where}: {facts.fps:g} frames per second, but info.json says {self._info.fps:g}; "
                f"{_AGAIN}"
            )
        if facts.frames < last or (files.is_alone and facts.frames != last):
            raise UserError(
                f"{where}: {facts.frames} frames, {last} are needed for its steps; {_AGAIN}"
            )


def _numbers(column: Any, name: str) -> np.ndarray:
    """A pyarrow column [T], or float32 [T, W] of vectors. Raises ValueError for other contents."""
    from pyarrow.compute import call_function

    width, steps = _WIDTHS.get(name, 1), len(column)
    while hasattr(column.type, "value_type"):  # a list for each step
        if len(call_function("list_value_length", [column]).unique()) > 1:
            raise ValueError("its steps have lists of different lengths")
        column = column.flatten()
    values = column.to_numpy(zero_copy_only=False)
    if len(values) != width * steps or column.null_count:
        raise ValueError(f"{width} values for each step are needed")
    if name in _WIDTHS:
        if values.dtype.kind not in "fiu":
            raise ValueError(f"its values are {column.type}, numbers are needed")
        with np.errstate(over="ignore"):  # infinite numbers leave their episode out
            return values.astype(np.float32).reshape(steps, width)
    if steps and (values.dtype.kind not in _KINDS[name] or not np.isfinite(values).all()):
        raise ValueError(f"its values are {column.type}, or not finite")
    return values
