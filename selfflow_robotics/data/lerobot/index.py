"""Random access to a LeRobot data set with RT-1's or Bridge's actions and states.

It gives the same windows as the RLDS original: policy vectors, proprioception and instructions are
equal, and frames differ by the video's compression.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from tqdm import tqdm

from selfflow_robotics.data import index_cache
from selfflow_robotics.data.index_tables import COMMON, Columns, Tables, collect, merge
from selfflow_robotics.data.lerobot.episodes import EpisodeFiles, read_episodes, read_tasks
from selfflow_robotics.data.lerobot.info import LeRobotInfo, read_info
from selfflow_robotics.data.lerobot.scan import EpisodeScanner
from selfflow_robotics.data.lerobot.video import VideoPool
from selfflow_robotics.data.processes import in_processes, processes_for
from selfflow_robotics.data.rlds.info import doubled, ranges
from selfflow_robotics.data.robot_index import RobotIndex
from selfflow_robotics.data.robot_mixture import ROBOTS
from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.observation import resize_image

# Fewer episodes are indexed in about two seconds, so only larger data sets are cached.
CACHE_FROM_EPISODES = 1000
EPISODES_EACH = 256  # that a process reads at least, if several build the index
EPISODES_PER_PART = 32
THREADS = 8  # that compute checksums
COLUMNS = Columns(COMMON.per_step, COMMON.per_episode | {"place": np.int64}, COMMON.texts)


class LeRobotIndex(RobotIndex):
    """One split of a LeRobot data set on disk; attributes as in `RobotIndex`."""

    def __init__(
        self,
        info: LeRobotInfo,
        files: list[EpisodeFiles],
        tables: Tables,
        provenance: dict[str, Any],
    ) -> None:
        """`files`: those of each episode in `tables`."""
        super().__init__(tables, provenance, np.zeros(len(files), bool), info.layout)
        self._files = files
        self._camera = info.camera
        self._videos = VideoPool(info.fps)

    @classmethod
    def open(
        cls, directory: str | Path, split: str = "train", processes: int | None = None
    ) -> "LeRobotIndex":
        """Open the folder that has meta/info.json, indexing it if it is not in the cache.

        split: in TensorFlow Datasets syntax, such as train, train[:90%] or train+val. processes:
        how many build the index; None: one for each core if there are enough episodes. Raises
        UserError for a data set that is incomplete or damaged, or of another kind of robot.
        """
        info = read_info(Path(os.path.expanduser(directory)))
        chosen = chosen_episodes(info, split)
        check_files(info, chosen)
        tasks = read_tasks(info)

        def build() -> Tables:
            count = processes or processes_for(len(chosen), EPISODES_EACH)
            return scan_episodes(info, chosen, tasks, count)

        if len(chosen) < CACHE_FROM_EPISODES:
            tables = build()
        else:
            tables = index_cache.cached(
                index_cache.cache_path("lerobot", _content(info, chosen, tasks)),
                COLUMNS,
                2**26 + 128 * sum(files.length for files in chosen),
                lambda tables: _fits(tables, chosen),
                build,
            )
        files = [chosen[place] for place in tables["place"]]
        index = cls(info, files, tables, provenance(info) | {"split": split})
        index.warn_of_left_out(directory)
        return index

    @cached_property
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
    chosen = [
        info.splits[name][place]
        for name, places in ranges(lengths, split, info.directory)
        for place in places
    ]
    if len({*chosen}) < len(chosen):  # the splits of info.json may have episodes in common
        raise doubled(info.directory, split)
    return [episodes[number] for number in chosen]


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
    info: LeRobotInfo, chosen: list[EpisodeFiles], tasks: dict[int, str], processes: int
) -> Tables:
    """The tables of `RobotIndex`, equal for any number of processes; `place` of each episode in
    `chosen`.

    Raises UserError as `EpisodeScanner.read`, and if no episode is usable.
    """
    scan = partial(_scan_part, info=info, tasks=tasks)
    parts: list[Tables] = []
    with tqdm(total=len(chosen), desc="index", unit="episode", delay=2) as progress:
        starts = _starts(chosen)
        items = [(n, chosen[n:stop]) for n, stop in pairwise([*starts, len(chosen)])]
        for (_, files), part in zip(items, in_processes(scan, items, processes), strict=True):
            parts.append(part)
            progress.update(len(files))
    tables = merge(COLUMNS, parts, info.directory)
    return tables | {"image_size": np.array(info.image_size, np.int64)}


def _scan_part(
    part: tuple[int, list[EpisodeFiles]], info: LeRobotInfo, tasks: dict[int, str]
) -> Tables:
    """The tables of some of the chosen episodes; the first one's place is given."""
    first, chosen = part
    scanner = EpisodeScanner(info, tasks)
    found = (scanner.read(files) | {"place": n} for n, files in enumerate(chosen, first))
    return collect(COLUMNS, found)


def _starts(chosen: list[EpisodeFiles]) -> list[int]:
    """Where to divide the work: after some episodes, but never within a file of several."""
    starts = [0]
    for n, (before, files) in enumerate(pairwise(chosen), 1):
        if n - starts[-1] >= EPISODES_PER_PART and files.data != before.data:
            starts.append(n)
    return starts


def _fits(tables: Tables, chosen: list[EpisodeFiles]) -> bool:
    """Whether all episodes are among those chosen, in order and of their length."""
    place, lengths = tables["place"], np.array([files.length for files in chosen])
    if not (place[0] >= 0 and place[-1] < len(chosen) and (np.diff(place) > 0).all()):
        return False
    return np.array_equal(tables["episode_length"], lengths[place])


def _content(info: LeRobotInfo, chosen: list[EpisodeFiles], tasks: dict[int, str]) -> str:
    """SHA-256 of what the index depends on: features, episodes, instructions, and the name and size
    of every file, of tables with their checksum."""
    told: dict[str, Any] = vars(info) | {"layout": info.layout.name, "directory": ""}
    told["splits"] = ""  # the chosen episodes are what counts
    del told["num_episodes"], told["num_frames"]
    key = hashlib.sha256(f"{index_cache.VERSION}".encode())
    key.update(json.dumps([told, sorted(tasks.items())]).encode())
    tables = list(dict.fromkeys(files.data for files in chosen))
    with ThreadPoolExecutor(THREADS) as threads:  # they wait for a slow disk together
        sums = dict(zip(tables, threads.map(_checksum, tables), strict=True))
    sizes = {files.video: 0 for files in chosen}
    sizes = {path: path.stat().st_size for path in sizes}
    here = len(str(info.directory))
    for one in chosen:
        names = str(one.data)[here:], str(one.video)[here:]
        line = (one.number, one.length, one.first, *names, *sums[one.data], sizes[one.video])
        key.update(repr(line).encode())
    return key.hexdigest()


def _checksum(path: Path) -> tuple[int, int]:
    """Size and CRC-32C."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); copy it again") from error
    return len(data), google_crc32c.value(data)
