"""Scan a data set's shards once: check every episode and collect the index."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import google_crc32c
import numpy as np
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from selfflow_robotics.data.index_tables import COMMON, Columns, Tables, collect, merge
from selfflow_robotics.data.processes import in_processes
from selfflow_robotics.data.rlds.info import Piece
from selfflow_robotics.data.rlds.metadata import UNTOLD, read_note
from selfflow_robotics.data.rlds.pictures import picture_size
from selfflow_robotics.data.rlds.schema import BRIDGE, layout_of
from selfflow_robotics.data.rlds.tfrecord import read_records
from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.actions import GRIPPER, policy_from_rt1
from selfflow_robotics.robot.bridge import policy_from_bridge, proprio_from_state

_CONVERT = "its checksum is correct, so it was written this way: convert the data again"

COLUMNS = Columns(
    COMMON.per_step
    | {
        "shard": (np.int32, ()),
        "offset": (np.int64, ()),
        "size": (np.int32, ()),
        "crc": (np.uint32, ()),
    },
    COMMON.per_episode | {"record": np.int64, "disturbed": np.int8},
    (*COMMON.texts, "recordings"),
)


def scan_shards(pieces: list[Piece], check_data: bool, processes: int) -> Tables:
    """The tables of `RldsIndex`, equal for any number of processes.

    Raises UserError for damaged records and for episodes that do not match `schema`.
    """
    size: tuple[int, int] | None = None
    parts: list[Tables] = []
    total = sum(piece.take for piece in pieces)
    scan = partial(_scan_piece, check_data=check_data)
    with tqdm(total=total, desc="index", unit="episode", delay=2) as progress:
        found = in_processes(scan, list(enumerate(pieces)), processes)
        for piece, part in zip(pieces, found, strict=True):
            other = part.pop("image_size")
            if size and other and size != other:
                raise _other_size(f"{piece.path}", other, size)
            size = size or other
            parts.append(part)
            progress.update(piece.take)
    tables = merge(COLUMNS, parts, pieces[0].path.parent)
    return tables | {"image_size": np.array(size, np.int64)}


def _scan_piece(numbered: tuple[int, Piece], check_data: bool) -> Tables:
    """The tables of one shard's records; `image_size` is (height, width), None without images."""
    number, piece = numbered
    size: tuple[int, int] | None = None
    recordings: dict[str, None] = {}  # a set in order

    def episodes() -> Iterator[dict[str, Any]]:
        nonlocal size
        chosen = slice(piece.skip, piece.skip + piece.take)
        records = read_records(piece.path, check_data, chosen)
        for count, (offset, record) in enumerate(records, piece.skip):
            episode = read_episode(record, f"{piece.path}: record {count} (counted from 0)", size)
            size = episode["image_size"] or size
            recordings[episode["recording"]] = None
            episode["offset"] += offset
            episode["record"] = piece.before + count
            episode["shard"] = np.full(len(episode["actions"]), number, np.int32)
            yield episode

    tables = collect(COLUMNS, episodes())
    return tables | {"recordings": list(recordings), "image_size": size}


def read_episode(record: bytes, where: str, image_size: tuple[int, int] | None) -> dict[str, Any]:
    """The values of the episode in `record`, whose name in error messages is `where`.

    | key                  | type                     | meaning                                 |
    |----------------------|--------------------------|-----------------------------------------|
    | actions              | float32 [T, 7]           | policy vectors (`robot.actions`)        |
    | gripper_command      | float32 [T]              | as stored: closing, for Bridge opening  |
    | proprio              | float32 [T, 8]           | tool xyz, quaternion xyzw, closedness   |
    | texts                | list of T str            | instructions; bytes that are not UTF-8  |
    |                      |                          | become surrogates                       |
    | offset, size, crc    | int64, int32, uint32 [T] | of image files, from the record's start |
    | image_size           | (int, int)               | height, width; None without steps       |
    | success, failed      | bool                     | as recorded; both false: unknown        |
    | recording, disturbed | str, int                 | from the note (`metadata`)              |
    | note                 | dict                     | the note's episode; empty without note  |

    `image_size` is that of the previous episodes. Raises UserError if the record is no episode with
    the features of `schema`, or an image is not of that size.
    """
    try:
        example = tf_example_pb2.Example.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
        features = example.features.feature
    except Exception as error:  # protobuf's DecodeError is not public
        raise UserError(f"{where} is not a tf.train.Example; {_CONVERT}") from error
    layout = layout_of(features)
    widths = {layout.image: 1, layout.text: 1} | layout.numbers
    values = {key: _values(features, key, where, key not in layout.numbers) for key in widths}
    # The number of steps is the one that most keys agree on, so that the error names the odd one.
    steps, _ = Counter(len(values[key]) / width for key, width in widths.items()).most_common(1)[0]
    for key, width in widths.items():
        if len(values[key]) != steps * width:
            raise UserError(
                f"{where}: '{key}' has {len(values[key])} values, expected {steps * width:g}; "
                f"{_CONVERT}"
            )

    def floats(key: str) -> np.ndarray:
        return np.array(values[key], np.float32).reshape(-1, layout.numbers[key])

    images = values[layout.image]
    offsets = np.empty(len(images), np.int64)
    position = 0
    for step, image in enumerate(images):
        try:
            size = picture_size(image)
        except ValueError as error:
            raise UserError(
                f"{where}, step {step}: unusable image ({error}); {_CONVERT}"
            ) from error
        image_size = image_size or size
        if size != image_size:
            raise _other_size(f"{where}, step {step}", size, image_size)
        # Images are consecutive in the record, so equal ones are found in order too.
        offsets[step] = record.find(image, position)
        position = offsets[step] + len(image)
    note = read_note(features)
    if layout is BRIDGE:
        stored = floats("steps/action")
        actions, gripper_command = policy_from_bridge(stored), stored[:, GRIPPER]
        proprio = proprio_from_state(floats("steps/observation/state"))
        success = note.episode.get("success") if note else None
    else:
        gripper_command = floats("steps/action/gripper_closedness_action")[:, 0]
        actions = policy_from_rt1(
            floats("steps/action/world_vector"),
            floats("steps/action/rotation_delta"),
            gripper_command,
        )
        proprio = np.concatenate(
            [
                floats("steps/observation/base_pose_tool_reached"),
                floats("steps/observation/gripper_closed"),
            ],
            axis=1,
        )
        success = _success(features, where)
    return {
        "recording": note.recording if note else "",
        "disturbed": note.disturbed if note else UNTOLD,
        "note": note.episode if note else {},
        "actions": actions,
        "gripper_command": gripper_command,
        "proprio": proprio,
        "texts": [text.decode("utf-8", "surrogateescape") for text in values[layout.text]],
        "image_size": image_size,
        "success": success is True,
        "failed": success is False,
        "offset": offsets,
        "size": np.array([len(image) for image in images], np.int32),
        "crc": np.array([google_crc32c.value(image) for image in images], np.uint32),
    }


def _other_size(where: str, size: tuple[int, int], others: tuple[int, int]) -> UserError:
    return UserError(
        f"{where}: the image size is {size}, but earlier ones are {others} (height, width); a data "
        "set needs one image size"
    )


def _values(features: Any, key: str, where: str, is_bytes: bool) -> Any:
    """The values of a key: bytes for images and text, else numbers of either kind."""
    if key not in features:
        raise UserError(f"{where} lacks '{key}'; {_CONVERT}")
    kind = features[key].WhichOneof("kind")
    wanted = ("bytes_list",) if is_bytes else ("float_list", "int64_list")
    if kind is None:  # for an episode without steps
        return []
    if kind not in wanted:
        raise UserError(f"{where}: '{key}' is a {kind}, a {' or '.join(wanted)} is needed")
    return getattr(features[key], kind).value


def _success(features: Any, where: str) -> bool | None:
    """Whether the episode is recorded as a success; None if unknown."""
    told = {}
    for name in ("success", "has_aspects"):
        key = f"aspects/{name}"
        if key in features and (kind := features[key].WhichOneof("kind")):
            values = getattr(features[key], kind).value
            if kind == "bytes_list" or len(values) != 1:
                raise UserError(
                    f"{where}: '{key}' is a {kind} of {len(values)} values, one truth value is "
                    "needed"
                )
            told[name] = bool(values[0])
    # In RT-1's data, all aspects of an unreviewed episode are false.
    return told.get("success") if told.get("has_aspects", True) else None
