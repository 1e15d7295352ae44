"""Where the episodes of a LeRobot data set are: its files below meta/."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfflow_robotics import json_file
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
    found = _version_3(info) if info.version == "v3.0" else _version_2(info)
    for split, numbers in info.splits.items():
        if absent := [number for number in numbers if number not in found]:
            raise UserError(
                f"{info.directory}/meta lacks {len(absent)} episodes of the split {split}, first "
                f"{absent[0]}; copy it again"
            )
    return found


def read_tasks(info: LeRobotInfo) -> dict[int, str]:
    """The instruction of each task_index."""
    meta = info.directory / "meta"
    if info.version != "v3.0":
        path = meta / "tasks.jsonl"
        rows = _lines(path)
        return {_whole(path, row, "task_index"): str(row.get("task", "")) for row in rows}
    path = meta / "tasks.parquet"
    table = read_parquet(path)
    # The texts are the table's index, or a column of that name.
    names = [name for name in ("task", "__index_level_0__") if name in table.column_names]
    if not names or "task_index" not in table.column_names:
        raise UserError(f"{path} has the columns {table.column_names}, not task and task_index")
    numbers, texts = (table[name].to_pylist() for name in ("task_index", names[0]))
    return dict(zip(numbers, map(str, texts), strict=True))


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


def _version_2(info: LeRobotInfo) -> dict[int, EpisodeFiles]:
    path, found = info.directory / "meta" / "episodes.jsonl", {}
    for row in _lines(path):
        number = _whole(path, row, "episode_index")
        values = {
            "episode_index": number,
            "episode_chunk": number // info.chunks_size,
            "video_key": info.camera,
        }
        found[number] = EpisodeFiles(
            number,
            _whole(path, row, "length"),
            info.file(info.data_path, **values),
            info.file(info.video_path, **values),
            0,
            True,
        )
    return found


def _version_3(info: LeRobotInfo) -> dict[int, EpisodeFiles]:
    folder, found = info.directory / "meta" / "episodes", {}
    paths = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not paths:
        raise UserError(f"{folder} has no chunk-*/file-*.parquet; copy it again")
    video = f"videos/{info.camera}"
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    columns += [f"{video}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    for path in paths:
        table = read_parquet(path, columns)
        if missing := [name for name in columns if name not in table.column_names]:
            raise UserError(f"{path} lacks the column {missing[0]}; copy it again")
        for row in table.to_pylist():
            number, length, chunk, file, video_chunk, video_file, begin = (
                row[name] for name in columns
            )
            found[number] = EpisodeFiles(
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
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file."""
    try:
        rows = [json_file.parse(line) for line in json_file.read_text(path).splitlines() if line]
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({cause}); copy it again") from error
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: a line is no table; copy it again")
    return rows


def _whole(path: Path, row: dict[str, Any], key: str) -> int:
    value = row.get(key)
    if type(value) is not int or value < 0:
        raise UserError(f"{path}: {key} is {value}, a number is needed; copy it again")
    return value
