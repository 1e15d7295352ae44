"""Small RLDS data sets for tests: made by the writer, then damaged where a test wants it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

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


def make_grasp(seed: int, length: int = 24, instruction: str = "pick coke can") -> list[dict]:
    """An episode whose numbers fit together: the tool moves as commanded, and the gripper closes
    after step length // 3 and opens after 2 * length // 3."""
    generator = np.random.Generator(np.random.PCG64(seed))
    steps = make_steps(seed, length, instruction)
    moves = generator.uniform(-0.03, 0.03, (length, 3))
    tool = generator.normal(size=3) + np.cumsum(moves, axis=0) - moves
    closes, opens = length // 3, 2 * length // 3
    closedness = 0.0
    for t, step in enumerate(steps):
        step["world_vector"] = moves[t]
        step["rotation_delta"] = generator.uniform(-0.1, 0.1, 3)
        step["gripper_closedness_action"] = float(t == closes) - float(t == opens)
        step["proprio"] = np.array([*tool[t], 0.0, 0.6, 0.0, 0.8, closedness])
        closedness = np.clip(closedness + (0.3 if closes <= t < opens else -0.3), 0.0, 0.8)
    return steps


def write_set(
    root: Path,
    episodes: list[list[dict]],
    per_shard: int = 2,
    layout: Literal["fractal", "bridge"] = "fractal",
) -> Path:
    """A finished set of these episodes, all but the last successful."""
    where = (root, "toy", "0.1.0", IMAGE_SIZE, {"simulator": "none"}, per_shard)
    with RldsWriter(*where, layout=layout) as writer:
        for number, steps in enumerate(episodes):
            writer.write_episode(steps, {"success": number < len(episodes) - 1, "seed": number})
        return writer.finish()
