"""Where the episodes of a LeRobot data set are: its files below meta/."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from selfflow_robotics import json_file
from selfflow_robotics.data.index_tables import has_surrogates
from selfflow_robotics.data.lerobot.info import LeRobotInfo
from selfflow_robotics.errors import UserError


@dataclass(frozen=True)
class EpisodeFiles:
    """An episode's files."""

    number: int  # episode_index
    length: int  # steps
    data: Path  # parquet file, of this episode alone before version 3
    video: Path
    first: int  # its first frame in the video
    is_alone: bool  # no other episode is in these files


def read_episodes(info: LeRobotInfo) -> dict[int, EpisodeFiles]:
    """All episodes by number. Raises UserError if files are missing, damaged or inconsistent."""
    episodes = _version_3(info) if info.version == "v3.0" else _version_2(info)
    found = {one.number: one for one in episodes}
    for split, numbers in info.splits.items():
        if absent := [number for number in numbers if number not in found]:
            raise UserError(
                f"{info.directory}/meta lacks {len(absent)} episodes of the split {split}, first "
                f"{absent[0]}; copy it again"
            )
    if len(episodes) != info.num_episodes:
        raise UserError(
            f"{info.directory}/meta lists {len(episodes)} episodes, but info.json says "
            f"{info.num_episodes}; copy it again"
        )
    frames = sum(one.length for one in episodes)
    if info.num_frames not in (None, frames):
        raise UserError(
            f"{info.directory}/meta lists episodes of {frames} frames, but info.json says "
            f"{info.num_frames} (total_frames); copy it again"
        )
    _check_apart(episodes)
    return found


def read_tasks(info: LeRobotInfo) -> dict[int, str]:
    """The instruction of each task_index."""
    meta, key = info.directory / "meta", "task"
    if info.version != "v3.0":
        path = meta / "tasks.jsonl"
        rows = _lines(path)
    else:
        path = meta / "tasks.parquet"
        table = read_parquet(path)
        # The texts are the table's index, or a column of that name.
        names = [name for name in (key, "__index_level_0__") if name in table.column_names]
        if not names or "task_index" not in table.column_names:
            raise UserError(f"{path} has the columns {table.column_names}, not task and task_index")
        rows, key = table.to_pylist(), names[0]
    tasks: dict[int, str] = {}
    for row in rows:
        number, text = _whole(path, row, "task_index"), row.get(key)
        if not isinstance(text, str) or has_surrogates(text):
            raise UserError(
                f"{path}: task {number} is {text!r:.80}, a text is needed; copy it again"
            )
        if tasks.setdefault(number, text) != text:
            raise UserError(f"{path}: task {number} is there twice; copy it again")
    return tasks


def read_parquet(path: Path, columns: list[str] | None = None) -> Any:
    """A pyarrow table. Raises UserError if the file is missing or damaged, or pyarrow is."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(
            "LeRobot data sets need pyarrow: pip install 'selfflow_robotics[lerobot]'"
        ) from error
    try:
        # One thread: an episode has a few kilobytes.
        return pq.ParquetFile(path).read(columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({cause}); copy it again") from error


def _version_2(info: LeRobotInfo) -> list[EpisodeFiles]:
    path, found = info.directory / "meta" / "episodes.jsonl", []
    for row in _lines(path):
        number = _whole(path, row, "episode_index")
        values = {
            "episode_index": number,
            "episode_chunk": number // info.chunks_size,
            "video_key": info.camera,
        }
        found.append(
            EpisodeFiles(
                number,
                _whole(path, row, "length"),
                info.file(info.data_path, **values),
                info.file(info.video_path, **values),
                0,
                True,
            )
        )
    return found


def _version_3(info: LeRobotInfo) -> list[EpisodeFiles]:
    folder, found = info.directory / "meta" / "episodes", []
    paths = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not paths:
        raise UserError(f"{folder} has no chunk-*/file-*.parquet; copy it again")
    video = f"videos/{info.camera}"
    numbers = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    numbers += [f"{video}/{name}" for name in ("chunk_index", "file_index")]
    start, stop = (f"{video}/{name}_timestamp" for name in ("from", "to"))
    for path in paths:
        table = read_parquet(path, [*numbers, start, stop])
        if missing := [name for name in (*numbers, start) if name not in table.column_names]:
            raise UserError(f"{path} lacks the column {missing[0]}; copy it again")
        for row in table.to_pylist():
            number, length, chunk, file, video_chunk, video_file = (
                _whole(path, row, name) for name in numbers
            )
            begin = row[start]
            if not isinstance(begin, int | float) or not 0 <= begin < math.inf:
                raise UserError(f"{path}: {start} is {begin}, seconds are needed; copy it again")
            end = row.get(stop, math.inf)  # not read, so it may be missing
            if not isinstance(end, int | float) or not begin < end:
                raise UserError(
                    f"{path}: episode {number}: {stop} is {end}, not after {begin}; copy it again"
                )
            found.append(
                EpisodeFiles(
                    number,
                    length,
                    info.file(info.data_path, chunk_index=chunk, file_index=file),
                    info.file(
                        info.video_path,
                        video_key=info.camera,
                        chunk_index=video_chunk,
                        file_index=video_file,
                    ),
                    round(begin * info.fps),
                    False,
                )
            )
    return found


def _check_apart(episodes: Iterable[EpisodeFiles]) -> None:
    """Raise UserError if two episodes have the same frames of a video."""
    spans = sorted((os.fspath(one.video), one.first, one.number, one.length) for one in episodes)
    for (video, first, number, length), (other, start, following, _) in pairwise(spans):
        if video == other and start < first + length:
            raise UserError(
                f"{video}: episode {number} has its frames {first} to {first + length - 1}, but "
                f"episode {following} starts at {start}; copy meta/ again"
            )


def _lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file."""
    try:
        # Texts may have other line separators, so not splitlines.
        lines = json_file.read_text(path).split("\n")
        rows = [json_file.parse(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({cause}); copy it again") from error
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: a line is no table; copy it again")
    return rows


def _whole(path: Path, row: dict[str, Any], key: str) -> int:
    value = row.get(key)
    if type(value) is not int or value < 0:
        raise UserError(f"{path}: {key} is {value}, a whole number is needed; copy it again")
    return value
