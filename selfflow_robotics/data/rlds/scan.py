"""One pass over a data set's shards: what the index keeps of every episode, with all checks."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from selfflow_robotics.data.rlds.metadata import UNTOLD, read_note
from selfflow_robotics.data.rlds.schema import REQUIRED_KEYS
from selfflow_robotics.data.rlds.tfrecord import read_records
from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.actions import policy_from_rt1

JPEG_START, PNG_START = b"\xff\xd8", b"\x89PNG"


def read_info(directory: Path, split: str) -> tuple[list[Path], list[int], tfds.core.DatasetInfo]:
    """The split's shard files, the number of records in each, and all that TFDS knows."""
    if not (directory / "dataset_info.json").is_file():
        raise UserError(
            f"{directory}: no finished RLDS data set (dataset_info.json is missing); name the "
            "folder <name>/<version>, or repeat the command of an interrupted recording"
        )
    try:
        info = tfds.builder_from_directory(str(directory)).info
    except Exception as error:  # TFDS raises many kinds for a bad dataset_info or features file
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{directory}: its JSON files cannot be read ({cause}); copy them again"
        ) from error
    if split not in info.splits:
        raise UserError(f"{directory}: no split '{split}'; there are {sorted(info.splits)}")
    lengths = info.splits[split].shard_lengths
    if not lengths:
        raise UserError(
            f"{directory}: dataset_info.json does not say how many records the shards of "
            f"'{split}' hold; copy it again"
        )
    shards = [Path(os.fspath(path)) for path in info.splits[split].filepaths]
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        raise UserError(
            f"{directory}: {len(missing)} of {len(shards)} shards missing, first {missing[0]}; "
            "copy them again"
        )
    return shards, lengths, info


def scan_shards(
    shards: list[Path], lengths: list[int], total_bytes: int, check_data: bool
) -> dict[str, np.ndarray]:
    """The arrays that `RldsIndex` is made of. Raises UserError for damaged or incomplete shards."""
    episodes: list[dict[str, Any]] = []
    vocabulary: dict[str, int] = {}
    recordings: dict[str, None] = {}  # a set in order
    left_out = [0, 0]
    records = 0
    with tqdm(total=total_bytes, desc="index", unit="B", unit_scale=True, delay=2) as progress:
        for number, (path, length) in enumerate(zip(shards, lengths, strict=True)):
            count = 0
            for offset, record in read_records(path, check_data):
                episode = _read_episode(record, f"{path}: record {count} (counted from 0)")
                recordings[episode.pop("recording")] = None
                values = np.concatenate([episode["actions"], episode["proprio"]], axis=1)
                if len(values) < 2:
                    left_out[0] += 1
                elif not np.isfinite(values).all():
                    left_out[1] += 1
                else:
                    episode["offset"] += offset
                    episode["record"] = records
                    episode["shard"] = np.full(len(values), number, np.uint16)
                    episode["instruction"] = np.array(
                        [vocabulary.setdefault(text, len(vocabulary)) for text in episode["texts"]],
                        np.int32,
                    )
                    del episode["texts"]
                    episodes.append(episode)
                count += 1
                records += 1
                progress.update(len(record))
            if count != length:
                raise UserError(
                    f"{path}: {count} records, but dataset_info.json says {length}; "
                    "copy the file again"
                )
    if not episodes:
        raise UserError(
            f"{shards[0].parent}: no usable episode; {left_out[0]} have fewer than two steps, "
            f"{left_out[1]} hold numbers that are not finite"
        )

    per_step = ("actions", "proprio", "instruction", "offset", "size", "shard")
    tables = {key: np.concatenate([episode[key] for episode in episodes]) for key in per_step}
    tables["instructions"] = np.array(list(vocabulary))
    tables["episode_length"] = np.array([len(episode["size"]) for episode in episodes], np.int64)
    tables["episode_start"] = np.cumsum(tables["episode_length"]) - tables["episode_length"]
    tables["success"] = np.array([episode["success"] for episode in episodes], bool)
    tables["record"] = np.array([episode["record"] for episode in episodes], np.int64)
    tables["disturbed"] = np.array([episode["disturbed"] for episode in episodes], np.int8)
    tables["recordings"] = np.array(list(recordings))
    tables["left_out"] = np.array(left_out)
    return tables


def _read_episode(record: bytes, where: str) -> dict[str, Any]:
    """The values of one episode; `offset` counts from the start of the record."""
    try:
        example = tf_example_pb2.Example.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
        features = example.features.feature
    except Exception as error:  # protobuf's DecodeError has no public home
        raise UserError(f"{where} is no tf.train.Example; copy the file again") from error
    for key in REQUIRED_KEYS:
        if key not in features:
            raise UserError(
                f"{where} lacks '{key}'; the data must have fractal20220817_data's features"
            )
    images = features["steps/observation/image"].bytes_list.value
    values = {}
    for key, (kind, width) in REQUIRED_KEYS.items():
        values[key] = getattr(features[key], kind).value
        expected = len(images) * width if width else 1
        if len(values[key]) != expected:
            raise UserError(
                f"{where}: '{key}' has {len(values[key])} values, {expected} are needed"
            )

    def floats(key: str) -> np.ndarray:
        return np.array(values[key], np.float32).reshape(len(images), REQUIRED_KEYS[key][1])

    sizes = np.array([len(image) for image in images], np.int32)
    offsets = np.empty(len(images), np.int64)
    position = 0
    for step, image in enumerate(images):
        if not image.startswith((JPEG_START, PNG_START)):
            raise UserError(f"{where}, step {step}: the picture is neither JPEG nor PNG")
        # Pictures follow one another in the record, so equal ones are found in their order too.
        offsets[step] = record.find(image, position)
        position = offsets[step] + len(image)
    note = read_note(features)
    return {
        "recording": note.recording if note else "",
        "disturbed": note.disturbed if note else UNTOLD,
        "actions": policy_from_rt1(
            floats("steps/action/world_vector"),
            floats("steps/action/rotation_delta"),
            floats("steps/action/gripper_closedness_action"),
        ),
        "proprio": np.concatenate(
            [
                floats("steps/observation/base_pose_tool_reached"),
                floats("steps/observation/gripper_closed"),
            ],
            axis=1,
        ),
        "texts": [
            text.decode("utf-8", "replace")
            for text in values["steps/observation/natural_language_instruction"]
        ],
        "success": bool(values["aspects/success"][0]),
        "offset": offsets,
        "size": sizes,
    }
