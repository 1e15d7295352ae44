"""Random access to a LeRobot data set with RT-1's or Bridge's actions and states.

It gives the same windows as the RLDS original: policy vectors, proprioception and instructions are
equal, and frames differ by the video's compression.
"""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from selfflow_robotics.data.lerobot.episodes import EpisodeFiles, read_episodes, read_tasks
from selfflow_robotics.data.lerobot.info import LeRobotInfo, read_info
from selfflow_robotics.data.lerobot.scan import EpisodeScanner
from selfflow_robotics.data.lerobot.video import VideoPool
from selfflow_robotics.data.rlds.info import ranges
from selfflow_robotics.data.robot_index import RobotIndex
from selfflow_robotics.data.robot_mixture import ROBOTS
from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.observation import resize_image


class LeRobotIndex(RobotIndex):
    """One split of a LeRobot data set on disk; attributes as in `RobotIndex`."""

    def __init__(
        self,
        info: LeRobotInfo,
        files: list[EpisodeFiles],
        tables: dict[str, Any],
        provenance: dict[str, Any],
    ) -> None:
        """`files`: those of each episode in `tables`."""
        super().__init__(tables, provenance, np.zeros(len(files), bool), info.layout)
        self._files = files
        self._camera = info.camera
        self._videos = VideoPool(info.fps)

    @classmethod
    def open(cls, directory: str | Path, split: str = "train") -> "LeRobotIndex":
        """Open the folder that has meta/info.json.

        split: in TensorFlow Datasets syntax, such as train, train[:90%] or train+val. Raises
        UserError for a data set that is incomplete or damaged, or of another kind of robot.
        """
        info = read_info(Path(os.path.expanduser(directory)))
        chosen = chosen_episodes(info, split)
        check_files(info, chosen)
        files, tables = scan_episodes(info, chosen)
        index = cls(info, files, tables, provenance(info) | {"split": split})
        index.warn_of_left_out(directory)
        return index

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the episodes' content, independent of paths: all numbers and texts, and the
        position, length and size in bytes of the videos."""
        told = [self.instructions, self.image_size, self._camera]
        told += [[one.first for one in self._files]]
        told += [[path.stat().st_size for path in {one.video: 0 for one in self._files}]]
        key = hashlib.sha256(json.dumps(told).encode())
        for table in (
            self.episode_length,
            self.success,
            self.actions,
            self.proprio,
            self._instruction,
        ):
            key.update(np.ascontiguousarray(table).tobytes())
        return key.hexdigest()

    def frame(self, frame: int) -> np.ndarray:
        return self.read_frames([frame], self.image_size)[0]

    def read_frames(self, frames: Any, size: tuple[int, int]) -> np.ndarray:
        """As `RobotIndex.read_frames`; fastest in rising order, as each video is decoded once."""
        frames = np.asarray(frames, np.int64)
        episodes = self.episode_of(frames)
        pictures = np.empty((len(frames), *size, 3), np.uint8)
        starts = np.flatnonzero(np.diff(episodes, prepend=-1))
        for rows in np.split(np.arange(len(frames)), starts[1:]):
            if not len(rows):
                continue
            episode = int(episodes[rows[0]])
            files = self._files[episode]
            steps = frames[rows] - self.episode_start[episode]
            with self._videos.borrow(files.video) as video:
                for row, picture in zip(
                    rows, video.read((files.first + steps).tolist()), strict=True
                ):
                    pictures[row] = resize_image(picture, size)
        return pictures


def provenance(info: LeRobotInfo) -> dict[str, Any]:
    """The data set's name and format, its robot, and its control rate in Hz."""
    return {
        "dataset": info.name.removesuffix("_lerobot"),
        "format": f"LeRobot {info.version}",
        "robot": ROBOTS[info.layout.name],
        "control_hz": info.fps,
    }


def chosen_episodes(info: LeRobotInfo, split: str) -> list[EpisodeFiles]:
    """The episodes of a split expression, in order. Raises UserError for a bad one."""
    episodes = read_episodes(info)
    lengths = {name: len(numbers) for name, numbers in info.splits.items()}
    return [
        episodes[info.splits[name][place]]
        for name, places in ranges(lengths, split, info.directory)
        for place in places
    ]


def check_files(info: LeRobotInfo, chosen: list[EpisodeFiles]) -> None:
    """Raise UserError if files of these episodes are missing."""
    for kind in ("data", "video"):
        paths = {getattr(one, kind): one.number for one in chosen}
        if missing := [path for path in paths if not path.is_file()]:
            raise UserError(
                f"{info.directory}: {len(missing)} of {len(paths)} {kind} files are missing, first "
                f"{missing[0].relative_to(info.directory)} (episode {paths[missing[0]]}); copy "
                "them again"
            )


def scan_episodes(
    info: LeRobotInfo, chosen: list[EpisodeFiles]
) -> tuple[list[EpisodeFiles], dict[str, Any]]:
    """The files of the usable episodes, and the tables of `RobotIndex`.

    Raises UserError as `EpisodeScanner.read`, and if no episode is usable.
    """
    scanner = EpisodeScanner(info, read_tasks(info))
    usable, found, left_out, words = [], [], [0, 0], {}
    for files in tqdm(chosen, desc="index", unit="episode", delay=2):
        episode = scanner.read(files)
        values = np.concatenate([episode["actions"], episode["proprio"]], axis=1)
        if len(values) < 2:
            left_out[0] += 1
        elif not np.isfinite(values).all():
            left_out[1] += 1
        else:
            numbers = [words.setdefault(text, len(words)) for text in episode.pop("texts")]
            usable.append(files)
            found.append(episode | {"instruction": np.array(numbers, np.int32)})
    if not usable:
        raise UserError(
            f"{info.directory}: no usable episode; {left_out[0]} have fewer than two steps, "
            f"{left_out[1]} have numbers that are not finite"
        )
    per_step = ("actions", "proprio", "instruction")
    tables: dict[str, Any] = {key: np.concatenate([e[key] for e in found]) for key in per_step}
    tables["instructions"] = list(words)
    tables["episode_length"] = np.array([one.length for one in usable], np.int64)
    tables["episode_start"] = np.cumsum(tables["episode_length"]) - tables["episode_length"]
    for key in ("success", "failed"):
        tables[key] = np.array([episode[key] for episode in found], bool)
    tables["left_out"] = np.array(left_out, np.int64)
    tables["image_size"] = np.array(info.image_size, np.int64)
    return usable, tables
