"""Time the index of a large robot data set: built, opened again, opened from a copy elsewhere.

    python -m benchmarks.rlds_index                             # 20 000 episodes, 1 024 shards
    python -m benchmarks.rlds_index --episodes 200 --shards 8   # seconds

Makes a data set with the features of fractal20220817_data: images of 256 x 320 px that compress to
a few KB, so it is much smaller than the original of 111 GB. Each row of the output is a process of
its own, which starts with nothing cached in memory but by the operating system.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from selfflow_robotics.data.rlds.tfrecord import FRAMING_BYTES, write_record
from selfflow_robotics.data.rlds.writer import RldsWriter

IMAGE_SIZE = (256, 320)
TEMPLATES = 32  # episodes that are encoded; the others differ from them in their actions
PROVENANCE = {"simulator": "none"}

MEASURE = """
import json, resource, sys, time
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.windows import WindowReader
import numpy as np
begin, cpu = time.perf_counter(), time.process_time()
index = RldsIndex.open(sys.argv[1])
wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
class Blank:
    shape, dtype = (1,), np.dtype(np.uint8)
    def read(self, frames):
        return np.zeros((len(frames), 1), np.uint8)
reader = WindowReader(index, future_frames=6, frames=Blank(), cache_bytes=0)
order = np.random.default_rng(0).permutation(len(reader))[:6400]
cpu = time.process_time()
for start in range(0, len(order), 32):
    reader.read(order[start : start + 32])
window_ms = 1000 * (time.process_time() - cpu) / len(order)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([wall_s, cpu_s, index.num_episodes, index.num_frames, window_ms, peak]))
"""


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


def measured(folder: Path, cache: Path) -> list[float]:
    """[wall s, CPU s, episodes, steps, ms of CPU per window, peak MB] of opening the data set."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)],
        env={**os.environ, "SELFFLOW_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--shards", type=int, default=1_024)
    parser.add_argument("--steps", type=int, default=10, help="per episode")
    parser.add_argument("--folder", help="for the data set; it is removed at the end")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        root, cache = Path(scratch), Path(scratch) / "cache"
        begin = time.perf_counter()
        folder = make_set(root / "here", options.episodes, options.shards, options.steps)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"made {size / 1e6:.0f} MB in {time.perf_counter() - begin:.0f} s")
        print("| what | wall s | CPU s | MB/s | window, ms of CPU | peak MB |")
        print("|---|---|---|---|---|---|")

        def row(name: str, where: Path) -> None:
            wall_s, cpu_s, _, _, window_ms, peak = measured(where, cache)
            rate = f"{size / 1e6 / wall_s:.0f}"
            print(
                f"| {name} | {wall_s:.2f} | {cpu_s:.2f} | {rate} | {window_ms:.3f} | {peak:.0f} |"
            )

        row("built", folder)
        row("opened again", folder)
        copy = Path(shutil.copytree(folder, root / "elsewhere" / "synthetic" / "0.1.0"))
        shutil.rmtree(root / "here")
        row("opened from a copy elsewhere", copy)


if __name__ == "__main__":
    main()
