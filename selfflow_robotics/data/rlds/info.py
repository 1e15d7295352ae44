"""Read a data set's JSON files: splits, shards and features of a step.

They are read as plain data into TensorFlow Datasets' own messages. TFDS's `builder_from_directory`
imports any module that features.json names for a feature's class, so opening a data set could run
code; here no class is imported, and unknown ones are refused.
"""

import os
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf import json_format
from tensorflow_datasets.core import naming, splits
from tensorflow_datasets.core.proto import dataset_info_pb2

from selfflow_robotics import json_file
from selfflow_robotics.data.rlds.schema import Layout, check_features
from selfflow_robotics.errors import UserError

MAX_JSON_BYTES = 2**24  # fractal20220817_data: 20 kB
MAX_METADATA_BYTES = 2**28  # has an entry for each episode


@dataclass(frozen=True)
class Piece:
    """The records of one shard that a split reads: `take` of them after `skip`."""

    path: Path
    skip: int
    take: int
    records: int  # records in the whole shard
    before: int  # records in earlier shards of the split


@dataclass(frozen=True)
class Info:
    """dataset_info.json."""

    directory: Path
    name: str
    description: str
    module_name: str
    splits: splits.SplitDict
    layout: Layout | None  # None: not told

    def pieces(self, split: str) -> list[Piece]:
        """The pieces of a split expression such as train, train[:90%] or train+val, in order.

        The syntax is that of TensorFlow Datasets (tensorflow.org/datasets/splits). Raises UserError
        if it is invalid, or selects no episode or one of them twice.
        """
        found = _selected(self.splits, split, self.directory)
        before = {}
        for one in self.splits.values():
            count = 0
            for path, length in zip(one.filepaths, one.shard_lengths, strict=True):
                before[os.fspath(path)] = count
                count += length
        return [
            Piece(Path(i.filename), i.skip, i.take, i.examples_in_shard, before[i.filename])
            for i in found
        ]


def ranges(lengths: dict[str, int], split: str, where: Path) -> list[tuple[str, range]]:
    """(split, its episodes) of each part of a split expression, for splits of these lengths.

    For data sets of another format; `where` is named in errors. Raises UserError as `Info.pieces`.
    """
    template = naming.ShardedFileTemplate(
        dataset_name="data", data_dir=tfds.core.Path(where), filetype_suffix="tfrecord"
    )
    known = splits.SplitDict(
        [
            splits.SplitInfo(name, [length], 0, template.replace(split=name))
            for name, length in lengths.items()
        ]
    )
    names = {os.fspath(known[name].filepaths[0]): name for name in known}
    return [
        (names[one.filename], range(one.skip, one.skip + one.take))
        for one in _selected(known, split, where)
    ]


def _selected(known: splits.SplitDict, split: str, where: Path) -> Any:
    names = ", ".join(sorted(known))
    try:
        found = known[split].file_instructions
    except Exception as error:  # TFDS raises many kinds of exceptions, with several lines
        cause = " ".join(str(error).split())
        raise UserError(
            f"{where}: no split '{split}' ({cause}); available: {names}; write slices as "
            "train[:90%] or train[100:200], sums as train+test"
        ) from error
    if not found:
        raise UserError(f"{where}: split '{split}' has no episodes")
    spans = sorted((one.filename, one.skip, one.skip + one.take) for one in found)
    if any(file == other and start < end for (file, _, end), (other, start, _) in pairwise(spans)):
        raise doubled(where, split)
    return found


def doubled(where: Path, split: str) -> UserError:
    """What to raise for a split that has an episode twice. It would count twice, and could be both
    held out and trained on."""
    return UserError(
        f"{where}: split '{split}' has some episodes twice; choose parts that do not overlap, such "
        "as train[:60%]+train[80%:]"
    )


def read_info(directory: Path) -> Info:
    """Read and check dataset_info.json and features.json.

    Raises UserError if the data set is unfinished, its JSON is damaged or implausible, its name is
    a path, its features are not RT-1's, or it is not stored as TFRecords.
    """
    if not os.path.isfile(directory / "dataset_info.json"):
        raise UserError(
            f"{directory}: not a finished RLDS data set (dataset_info.json is missing); pass the "
            "folder <name>/<version>, repeat an interrupted recording, or pass a LeRobot data set "
            "(with meta/info.json)"
        )
    content = read_json(directory / "dataset_info.json")
    try:
        proto = dataset_info_pb2.DatasetInfo()  # pyright: ignore[reportAttributeAccessIssue]
        json_format.ParseDict(content, proto)
        template = naming.ShardedFileTemplate(
            dataset_name=proto.name,
            data_dir=tfds.core.Path(directory),
            filetype_suffix=proto.file_format or "tfrecord",
        )
        found = splits.SplitDict.from_proto(proto.splits, template)
    except Exception as error:  # many kinds, if the file is JSON but not a DatasetInfo
        raise _unreadable(directory / "dataset_info.json", error) from error
    if not re.fullmatch(r"\w[\w.-]*", proto.name):  # shards and reports are named after it
        raise UserError(
            f"{directory}: dataset_info.json names the data set {proto.name[:100]!r}; a name of "
            "letters, digits and _ is needed: correct it, and the names of the shards"
        )
    if proto.file_format not in ("", "tfrecord"):
        raise UserError(
            f"{directory}: stored as {proto.file_format}, expected tfrecord; convert it with tfds "
            "convert_format"
        )
    for one in found.values():
        if not one.shard_lengths or min(one.shard_lengths) < 0:
            raise UserError(
                f"{directory}: dataset_info.json lacks the number of episodes per shard of "
                f"'{one.name}' (shardLengths); copy it again"
            )
    layout = check_features(read_json(directory / "features.json"), directory / "features.json")
    return Info(directory, proto.name, proto.description, proto.module_name, found, layout)


def read_json(path: Path, most_bytes: int = MAX_JSON_BYTES) -> Any:
    """As `json_file.read_json`, but raises UserError."""
    try:
        return json_file.read_json(path, most_bytes)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    cause = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return UserError(
        f"{path.parent}: its JSON files cannot be read ({path.name}: {cause or 'empty'}); copy "
        "them again"
    )
