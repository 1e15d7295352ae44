"""Small RLDS data sets for tests: made by the writer, then damaged where a test wants it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from selfflow_robotics.data.rlds.tfrecord import read_records, write_record
from selfflow_robotics.data.rlds.writer import RldsWriter

GOLDEN = Path(__file__).parent / "golden" / "rlds_simpler_pick"
GOLDEN_SET = GOLDEN / "simpler_pick_coke_can" / "0.1.0"
IMAGE_SIZE = (16, 24)


def make_steps(seed: int, length: int, instruction: str = "pick coke can") -> list[dict]:
    """A random episode; smooth pictures, so that JPEG keeps them nearly."""
    generator = np.random.Generator(np.random.PCG64(seed))
    height, width = IMAGE_SIZE
    slope = np.arange(height)[:, None, None] * 4 + np.arange(width)[None, :, None] * 3
    return [
        {
            "image": (slope + generator.integers(0, 100, 3) + t).astype(np.uint8),
            "instruction": instruction,
            "proprio": generator.normal(size=8),
            "world_vector": generator.normal(scale=0.1, size=3),
            "rotation_delta": generator.normal(scale=0.1, size=3),
            "gripper_closedness_action": generator.choice([-1.0, 0.0, 1.0]),
            "terminate": t == length - 1,
            "reward": float(t == length - 1),
        }
        for t in range(length)
    ]


def make_set(root: Path, lengths: list[int], per_shard: int = 2, name: str = "toy") -> Path:
    """A finished set; its episode e is `make_steps(e, lengths[e])`, successful if e is even."""
    with RldsWriter(root, name, "0.1.0", IMAGE_SIZE, {"simulator": "none"}, per_shard) as writer:
        for episode, length in enumerate(lengths):
            steps = make_steps(episode, length)
            writer.write_episode(steps, {"success": episode % 2 == 0, "seed": episode})
        return writer.finish()


def shard(directory: Path, number: int = 0) -> Path:
    return sorted(directory.glob("*.tfrecord-*"))[number]


def edit_record(path: Path, number: int, edit: Callable) -> None:
    """Change one record of a shard: `edit` gets the example's feature map.

    dataset_info.json is told of the new size.
    """
    before = path.stat().st_size
    records = [data for _, data in read_records(path)]
    example = tf_example_pb2.Example.FromString(records[number])
    edit(example.features.feature)
    records[number] = example.SerializeToString()
    with path.open("wb") as file:
        for record in records:
            write_record(file, record)
    told = path.parent / "dataset_info.json"
    info = json.loads(told.read_text())
    (split,) = info["splits"]
    split["numBytes"] = str(int(split["numBytes"]) + path.stat().st_size - before)
    told.write_text(json.dumps(info))
