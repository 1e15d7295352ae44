"""Record demonstrations as an RLDS data set with RT-1's or Bridge's features, without TensorFlow.

While recording, `<root>/<name>/<version>/` contains shards `<name>-train.tfrecord-00000`, ... but
no dataset_info.json, so readers do not take it for a data set. When `write_episode` returns, the
record is on disk, with a note (`data.rlds.metadata`) that identifies the recording. A writer
reopened on the folder resumes from there and drops a truncated last record. `finish` gives the
shards their final names and writes features.json, metadata.json and dataset_info.json with
TensorFlow Datasets' own classes.

Equal calls give equal bytes in all files, regardless of interruptions.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tensorflow_datasets as tfds
from filelock import lock_descriptor
from tensorflow_datasets.core import dataset_info, naming, splits
from tensorflow_datasets.proto import tf_example_pb2

from selfflow_robotics.data.rlds.bridge import BridgeEncoder
from selfflow_robotics.data.rlds.encode import FractalEncoder
from selfflow_robotics.data.rlds.metadata import (
    DESCRIPTIONS,
    MODULE_NAME,
    Note,
    read_metadata,
    read_note,
    to_json,
)
from selfflow_robotics.data.rlds.tfrecord import FRAMING_BYTES, read_records, write_record
from selfflow_robotics.errors import UserError

_log = logging.getLogger(__name__)


@dataclass
class _Shard:
    path: Path
    size: int = 0  # bytes of its complete records, with framing
    episodes: list[dict[str, Any]] = field(default_factory=list)


class RldsWriter:
    """Append episodes to a data set. Use as a context manager and call `finish` at the end.

    Written episodes survive any end of the process.

    `finished` tells whether the data set is complete. Raises UserError if the folder contains
    something else, a damaged recording, or one with different provenance, image size or quality, or
    if another process is writing to it.
    """

    def __init__(
        self,
        root: str | Path,
        name: str,  # lower case letters, digits, underscores
        version: str,  # e.g. 0.1.0
        image_size: tuple[int, int],  # height, width
        provenance: dict[str, Any],  # JSON-able: simulator, versions, seeds, ...
        episodes_per_shard: int = 85,
        jpeg_quality: int = 95,
        layout: Literal["fractal", "bridge"] = "fractal",  # whose features
    ) -> None:
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise UserError(f"data set name '{name}': use only lower case letters, digits and _")
        if not re.fullmatch(r"\d+\.\d+\.\d+", version):
            raise UserError(f"data set version '{version}': use three numbers such as 0.1.0")
        self.name, self.version = name, version
        self.path = Path(root).expanduser() / name / version
        encoder = BridgeEncoder if layout == "bridge" else FractalEncoder
        self._encoder, self._layout = encoder(image_size, jpeg_quality), layout
        self._per_shard = episodes_per_shard
        self._shards: list[_Shard] = []
        self._recording = to_json(
            {
                "provenance": provenance,
                "image_size": list(image_size),
                "jpeg_quality": jpeg_quality,
            }
        )
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            self._folder = os.open(self.path, os.O_RDONLY)
        try:
            with self._writing():
                self._lock()
                self._resume()
        except BaseException:
            os.close(self._folder)
            raise

    @property
    def episodes(self) -> list[dict[str, Any]]:
        """The metadata of all episodes so far, in order."""
        return [episode for shard in self._shards for episode in shard.episodes]

    @property
    def episodes_done(self) -> int:
        """The number of episodes so far."""
        return sum(len(shard.episodes) for shard in self._shards)

    @property
    def finished(self) -> bool:
        return (self.path / "dataset_info.json").exists()

    def write_episode(self, steps: Sequence[dict[str, Any]], metadata: dict[str, Any]) -> None:
        """Append one episode; `steps` and errors as in `EpisodeEncoder.encode`.

        metadata: JSON-able. `success` (bool) becomes RT-1's aspects/success; `disturbed` (bool,
        False) tells readers that something other than the recorded actions moved the arm. It is
        stored in the record's note and in metadata.json.
        """
        if self.finished:
            raise UserError(f"{self.path} is a finished data set; record a new version")
        text = to_json(metadata)
        record = self._encoder.encode(steps, bool(metadata["success"]), self._recording, text)
        is_new = not self._shards or len(self._shards[-1].episodes) == self._per_shard
        number = len(self._shards)
        shard = _Shard(self._shard_path(number)) if is_new else self._shards[-1]
        with self._writing(), shard.path.open("ab") as file:
            file.truncate(shard.size)  # remains of a failed attempt (disk full)
            write_record(file, record)
            file.flush()
            os.fsync(file.fileno())
            os.fsync(self._folder)
        shard.size += len(record) + FRAMING_BYTES
        shard.episodes.append(json.loads(text))
        if is_new:
            self._shards.append(shard)

    def finish(self) -> Path:
        """Complete the data set and return its folder. Does nothing if it is complete already."""
        if self.finished:
            return self.path
        if not self._shards:
            raise UserError(f"{self.path}: no episodes were recorded")
        template = naming.ShardedFileTemplate(
            data_dir=tfds.core.Path(self.path),
            dataset_name=self.name,
            split="train",
            filetype_suffix="tfrecord",
        )
        count = len(self._shards)
        with self._writing():
            for number, shard in enumerate(self._shards):
                final = template.sharded_filepath(shard_index=number, num_shards=count)
                shard.path = shard.path.replace(os.fspath(final))
            self._write_info(template)
        return self.path

    def close(self) -> None:
        """Release the folder."""
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def __enter__(self) -> "RldsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn file system errors into one line."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path} ({error.strerror or error}); free space or choose "
                "another root"
            ) from error

    def _lock(self) -> None:
        if not lock_descriptor(self._folder, blocking=False):
            raise UserError(f"{self.path} is being written by another process; wait for it")

    def _resume(self) -> None:
        """Resume from the folder's content."""
        if self.finished:
            found = read_metadata(self.path)
            self._check_same(found)
            self._shards = [_Shard(self.path, episodes=found["episodes"])]
            return
        paths = self._shards_found()
        for path in paths:
            shard = self._take_over(path, is_last=path == paths[-1])
            if shard.episodes:
                self._shards.append(shard)
            else:
                path.unlink()

    def _shards_found(self) -> list[Path]:
        """The shards, under their initial names or those of an interrupted `finish`."""
        pattern = re.compile(rf"{self.name}-train\.tfrecord-(\d{{5}})(-of-\d{{5}})?")
        names = sorted(path.name for path in self.path.iterdir())
        found = [match for match in map(pattern.fullmatch, names) if match]
        if names and not found:
            raise UserError(
                f"{self.path} contains other files ({names[0]}); choose another name or version, "
                "or remove the folder"
            )
        if [int(match[1]) for match in found] != list(range(len(found))):
            raise UserError(
                f"{self.path}: shards are missing or duplicated "
                f"({', '.join(m[0] for m in found)}); remove the folder and record again"
            )
        return [self.path / match[0] for match in found]

    def _take_over(self, path: Path, is_last: bool) -> _Shard:
        """Accept the complete records of a shard; only the last shard may be shorter."""
        shard = _Shard(path)
        for record in _whole_records(path, is_last):
            note = _note_of(record)
            if note is None:
                raise UserError(
                    f"{path} does not identify its recording, so it cannot be resumed; choose "
                    "another name or version, or remove the folder"
                )
            self._check_same(json.loads(note.recording))
            shard.episodes.append(note.episode)
            shard.size += len(record) + FRAMING_BYTES
        count = len(shard.episodes)
        if count > self._per_shard or (count < self._per_shard and not is_last):
            raise UserError(
                f"{path} has {count} episodes, not {self._per_shard}; remove it and all later "
                "shards to record them again"
            )
        return shard

    def _check_same(self, found: dict[str, Any]) -> None:
        for key, value in json.loads(self._recording).items():
            if found.get(key) != value:
                what = _what_differs(key, found.get(key), value)
                raise UserError(
                    f"{self.path} was recorded with a different {what}; choose another name or "
                    "version, or remove the folder"
                )

    def _shard_path(self, number: int) -> Path:
        return self.path / f"{self.name}-train.tfrecord-{number:05d}"

    def _write_info(self, template: naming.ShardedFileTemplate) -> None:
        info = dataset_info.DatasetInfo(
            builder=dataset_info.DatasetIdentity(
                name=self.name,
                version=tfds.core.Version(self.version),
                data_dir=str(self.path),
                module_name=MODULE_NAME,
            ),
            description=DESCRIPTIONS[self._layout],
            features=self._encoder.features,
            metadata=tfds.core.MetadataDict(**json.loads(self._recording), episodes=self.episodes),
        )
        info.set_file_format("tfrecord")
        split = splits.SplitInfo(
            name="train",
            shard_lengths=[len(shard.episodes) for shard in self._shards],
            num_bytes=sum(
                shard.size - FRAMING_BYTES * len(shard.episodes) for shard in self._shards
            ),
            filename_template=template,
        )
        info.set_splits(splits.SplitDict([split]))
        unfinished = self.path / "info.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)  # it may be incomplete after a kill
        unfinished.mkdir()
        info.write_to_directory(unfinished)
        names = ("features.json", "metadata.json", "dataset_info.json")
        for name in names:
            with (unfinished / name).open("rb") as file:
                os.fsync(file.fileno())
            (unfinished / name).replace(self.path / f"{name}.tmp")
        unfinished.rmdir()
        # dataset_info.json makes the data set readable, so it is written last.
        for name in names:
            (self.path / f"{name}.tmp").replace(self.path / name)
            os.fsync(self._folder)


def _whole_records(path: Path, is_last: bool) -> Iterator[bytes]:
    count = 0
    try:
        for _, record in read_records(path):
            count += 1
            yield record
    except UserError as error:
        if not is_last:
            raise UserError(
                f"{path} is damaged; remove it and all later shards to record them again"
            ) from error
        _log.warning("%s is complete up to episode %d; recording the rest again", path, count)


def _note_of(record: bytes) -> Note | None:
    try:
        example = tf_example_pb2.Example.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:  # protobuf's DecodeError is not public
        return None
    return read_note(example.features.feature)


def _what_differs(key: str, one: Any, other: Any) -> str:
    """A description of the difference; for a table, its first differing entry."""
    if isinstance(one, dict) and isinstance(other, dict):
        name = min(name for name in {*one, *other} if one.get(name) != other.get(name))
        return f"{key} ({name} {one.get(name)}, now {other.get(name)})"
    return f"{key.replace('_', ' ')} ({one}, now {other})"
