"""LeRobot data sets for benchmarks and tests, in the documented layout, from an RLDS data set."""

import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfflow_robotics.data.robot_index import RobotIndex

CAMERA = "observation.images.image"
STATE_NAMES = ["x", "y", "z", "rx", "ry", "rz", "rw", "gripper"]
ACTION_NAMES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
# LeRobot's own encoder is libsvtav1 with these options; it needs 64 px.
CODEC, OPTIONS = "libx264", {"g": "2", "crf": "20"}
FPS = 3


def write_lerobot(
    root: Path,
    index: RobotIndex,
    version: str = "v3.0",
    fps: int = FPS,
    codec: str = CODEC,
    options: dict[str, str] = OPTIONS,
    per_file: int = 3,
    **told: object,
) -> Path:
    """A copy of all episodes; in version 3, `per_file` episodes are in a file. `told` replaces
    entries of info.json."""
    whole = version == "v3.0"
    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    if whole:
        file = "chunk-{chunk_index:03d}/file-{file_index:03d}"
        data, video = f"data/{file}.parquet", f"videos/{{video_key}}/{file}.mp4"
    height, width = index.image_size
    info = {
        "codebase_version": version,
        "robot_type": "google_robot",
        "total_episodes": index.num_episodes,
        "total_frames": index.num_frames,
        "total_tasks": len(index.instructions),
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{index.num_episodes}"},
        "data_path": data,
        "video_path": video,
        "features": {
            CAMERA: {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "rgb"],
            },
            "observation.state": _feature("float32", 8, {"motors": STATE_NAMES}),
            "action": _feature("float32", 7, {"motors": ACTION_NAMES}),
            "timestamp": _feature("float32", 1),
            **{
                name: _feature("int64", 1)
                for name in ("frame_index", "episode_index", "index", "task_index")
            },
        },
    }
    _write_json(root / "meta" / "info.json", info | told)
    tasks = [{"task_index": n, "task": text} for n, text in enumerate(index.instructions)]
    rows = [
        {
            "episode_index": episode,
            "tasks": [index.instruction_of(int(index.episode_start[episode]))],
            "length": int(index.episode_length[episode]),
        }
        for episode in range(index.num_episodes)
    ]
    groups = np.split(
        np.arange(index.num_episodes),
        np.arange(per_file if whole else 1, len(rows), per_file if whole else 1),
    )
    for number, group in enumerate(groups):
        values = {"episode_chunk": 0, "episode_index": group[0], "video_key": CAMERA}
        values |= {"chunk_index": 0, "file_index": number}
        _write_table(root / data.format(**values), index, group, fps)
        frames = np.concatenate([np.arange(index.num_frames)[_steps(index, e)] for e in group])
        write_video(
            root / video.format(**values), [index.frame(f) for f in frames], fps, codec, options
        )
        begin = 0
        for episode in group:
            length = rows[episode]["length"]
            rows[episode] |= {
                "data/chunk_index": 0,
                "data/file_index": number,
                "dataset_from_index": int(index.episode_start[episode]),
                "dataset_to_index": int(index.episode_start[episode]) + length,
                f"videos/{CAMERA}/chunk_index": 0,
                f"videos/{CAMERA}/file_index": number,
                f"videos/{CAMERA}/from_timestamp": begin / fps,
                f"videos/{CAMERA}/to_timestamp": (begin + length) / fps,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
            begin += length
    if whole:
        texts = pa.table(
            {
                "task_index": pa.array(range(len(tasks)), pa.int64()),
                "__index_level_0__": [task["task"] for task in tasks],
            }
        )
        # As pandas writes a table whose index is the text.
        kinds = (("task_index", "int64", "int64"), (None, "unicode", "object"))
        table = {
            "index_columns": ["__index_level_0__"],
            "column_indexes": [],
            "columns": [
                {
                    "name": name,
                    "field_name": name or "__index_level_0__",
                    "pandas_type": kind,
                    "numpy_type": numpy,
                    "metadata": None,
                }
                for name, kind, numpy in kinds
            ],
        }
        texts = texts.replace_schema_metadata({"pandas": json.dumps(table)})
        pq.write_table(texts, root / "meta" / "tasks.parquet")
        path = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        plain = [{key: row[key] for key in ("episode_index", "tasks", "length")} for row in rows]
        for name, lines in (("tasks", tasks), ("episodes", plain)):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (root / "meta" / f"{name}.jsonl").write_text(text)
    return root


def write_video(
    path: Path, frames: list[np.ndarray], fps: int, codec: str, options: dict[str, str]
) -> None:
    """Frames uint8 [H, W, 3] as yuv420p."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def edit_json(path: Path, **told: object) -> None:
    """Replace entries of a JSON file."""
    _write_json(path, json.loads(path.read_text()) | told)


def _feature(dtype: str, width: int, names: object = None) -> dict:
    return {"dtype": dtype, "shape": [width], "names": names}


def _steps(index: RobotIndex, episode: int) -> slice:
    start = int(index.episode_start[episode])
    return slice(start, start + int(index.episode_length[episode]))


def _write_table(path: Path, index: RobotIndex, episodes: np.ndarray, fps: int) -> None:
    parts = [_steps(index, episode) for episode in episodes]
    lengths = [part.stop - part.start for part in parts]
    steps = np.concatenate([np.arange(length) for length in lengths])
    places = np.concatenate([np.arange(index.num_frames)[part] for part in parts])
    texts = [index.instructions.index(index.instruction_of(frame)) for frame in places]

    def vectors(table: np.ndarray) -> pa.Array:
        flat = pa.array(table[places].reshape(-1), pa.float32())
        return pa.FixedSizeListArray.from_arrays(flat, table.shape[1])

    table = pa.table(
        {
            "observation.state": vectors(index.proprio),
            "action": vectors(index.actions),
            "timestamp": pa.array((steps / fps).astype(np.float32)),
            "frame_index": pa.array(steps, pa.int64()),
            "episode_index": pa.array(np.repeat(episodes, lengths), pa.int64()),
            "index": pa.array(places, pa.int64()),
            "task_index": pa.array(texts, pa.int64()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
