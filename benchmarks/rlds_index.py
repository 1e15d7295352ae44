"""Time the index of a large robot data set: built, opened again, opened from a copy elsewhere.

    python -m benchmarks.rlds_index                             # 20 000 episodes, 1 024 shards
    python -m benchmarks.rlds_index --episodes 200 --shards 8   # seconds
    python -m benchmarks.rlds_index --lerobot v2.1 --episodes 1000

Makes a data set with the features of fractal20220817_data, as RLDS or LeRobot: images of 256 x 320
px that compress to a few KB, so it is much smaller than the original of 111 GB. Each row of the
output is a process of its own, which starts with only the operating system's caches. CPU seconds
are those of all processes together.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from benchmarks.lerobot_sets import write_lerobot
from selfflow_robotics.data.lerobot.index import LeRobotIndex
from selfflow_robotics.data.lerobot.info import VERSIONS, is_lerobot
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.tfrecord import FRAMING_BYTES, write_record
from selfflow_robotics.data.rlds.windows import WindowReader
from selfflow_robotics.data.rlds.writer import RldsWriter

IMAGE_SIZE = (256, 320)
TEMPLATES = 32  # episodes that are encoded; the others differ from them in their actions
PROVENANCE = {"simulator": "none"}


def make_steps(seed: int, length: int) -> list[dict]:
    """A random episode with smooth images."""
    generator = np.random.default_rng(seed)
    height, width = IMAGE_SIZE
    slope = np.arange(height)[:, None, None] / 4 + np.arange(width)[None, :, None] / 4
    return [
        {
            "image": (slope + generator.integers(0, 100, 3) + t).astype(np.uint8),
            "instruction": f"task {seed}",
            "proprio": generator.normal(size=8),
            "world_vector": generator.normal(scale=0.1, size=3),
            "rotation_delta": generator.normal(scale=0.1, size=3),
            "gripper_closedness_action": float(t == length // 2),
            "terminate": t == length - 1,
        }
        for t in range(length)
    ]


def make_set(root: Path, episodes: int, shards: int, steps: int) -> Path:
    """Write the data set and return its version folder."""
    with RldsWriter(root, "synthetic", "0.1.0", IMAGE_SIZE, PROVENANCE, jpeg_quality=40) as writer:
        for seed in range(TEMPLATES):
            writer.write_episode(make_steps(seed, steps), {"success": True, "seed": seed})
        folder = writer.finish()
    (first,) = folder.glob("*.tfrecord-*")
    data = first.read_bytes()
    templates, position = [], 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 8], "little")
        templates.append(data[position + 12 : position + 12 + length])
        position += length + FRAMING_BYTES
    first.unlink()
    (folder / "metadata.json").unlink()
    counts = [len(part) for part in np.array_split(np.arange(episodes), shards)]
    generator, made = np.random.default_rng(0), 0
    for shard, count in enumerate(counts):
        name = f"synthetic-train.tfrecord-{shard:05}-of-{shards:05}"
        with (folder / name).open("wb") as file:
            for _ in range(count):
                example = tf_example_pb2.Example.FromString(templates[made % TEMPLATES])
                moves = generator.normal(scale=0.1, size=3 * steps)
                feature = example.features.feature["steps/action/world_vector"]
                feature.float_list.value[:] = moves.tolist()
                write_record(file, example.SerializeToString())
                made += 1
    told = folder / "dataset_info.json"
    info = json.loads(told.read_text())
    (split,) = info["splits"]
    total = sum(path.stat().st_size for path in folder.glob("*.tfrecord-*"))
    split["numBytes"] = str(total - FRAMING_BYTES * episodes)
    split["shardLengths"] = [str(count) for count in counts]
    told.write_text(json.dumps(info))
    return folder


def make_lerobot(rlds: Path, root: Path, version: str) -> Path:
    """The same data set as LeRobot stores it, with 100 episodes per file in version 3."""
    index = RldsIndex.open(rlds)
    return write_lerobot(root, index, version, per_file=100)


class NoFrames:
    """Frames that take no time to read."""

    shape, dtype = (1,), np.dtype(np.uint8)

    def read(self, frames: np.ndarray) -> np.ndarray:
        return np.zeros((len(frames), 1), np.uint8)


def measure(folder: Path, processes: int) -> dict[str, float]:
    """Open the data set here, and read windows without their images."""
    begin, cpu = time.perf_counter(), cpu_seconds()
    index = (LeRobotIndex if is_lerobot(folder) else RldsIndex).open(folder, processes=processes)
    told = {"wall_s": time.perf_counter() - begin, "cpu_s": cpu_seconds() - cpu}
    told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    reader = WindowReader(index, future_frames=6, frames=NoFrames(), cache_bytes=0)
    order = np.random.default_rng(0).permutation(len(reader))[:6400]
    cpu = cpu_seconds()
    for start in range(0, len(order), 32):
        reader.read(order[start : start + 32])
    return told | {"window_ms": 1000 * (cpu_seconds() - cpu) / len(order)}


def cpu_seconds() -> float:
    """Of this process, and of those that it has waited for."""
    return sum(os.times()[:4])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--shards", type=int, default=1_024)
    parser.add_argument("--steps", type=int, default=10, help="per episode")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="that build it")
    parser.add_argument("--lerobot", choices=VERSIONS, help="a LeRobot data set of this version")
    parser.add_argument("--folder", help="for the data set; it is removed at the end")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        folder, processes = options.measure
        print(json.dumps(measure(Path(folder), int(processes))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        root = Path(scratch)
        begin = time.perf_counter()
        folder = make_set(root / "here", options.episodes, options.shards, options.steps)
        if options.lerobot:
            folder = make_lerobot(folder, root / "lerobot", options.lerobot)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"made {size / 1e6:.0f} MB in {time.perf_counter() - begin:.0f} s")
        print("| what | wall s | CPU s | MB/s | window, ms of CPU | peak MB |")
        print("|---|---|---|---|---|---|")

        def row(name: str, where: Path, processes: int, cache: str) -> None:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.rlds_index", "--measure", str(where),
                 str(processes)],
                env={**os.environ, "SELFFLOW_CACHE": str(root / cache)},
                cwd=Path(__file__).parents[1],
                capture_output=True,
                text=True,
                check=True,
            )  # fmt: skip
            told = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {name} | {told['wall_s']:.2f} | {told['cpu_s']:.2f} "
                f"| {size / 1e6 / told['wall_s']:.0f} | {told['window_ms']:.3f} "
                f"| {told['peak_mb']:.0f} |",
                flush=True,
            )

        for count in options.processes:
            row(f"built by {count}", folder, count, f"cache-{count}")
        row("opened again", folder, 1, f"cache-{count}")
        copy = Path(shutil.copytree(folder, root / "elsewhere"))
        shutil.rmtree(folder)
        row("opened from a copy elsewhere", copy, 1, f"cache-{count}")


if __name__ == "__main__":
    main()
