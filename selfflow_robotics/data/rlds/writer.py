"""Record demonstrations as an RLDS data set with RT-1's features, without TensorFlow.

While recording, `<root>/<name>/<version>/` holds

    recording.json                 what is being recorded: provenance, picture size and quality
    <name>-train.tfrecord-00000    a finished shard
    shard-00000.json               its episodes; written last, so its presence vouches for the shard

and no dataset_info.json, so no reader takes it for a data set. A writer opened again on the folder
goes on after the last finished shard. `finish` gives the shards their final names and lets
TensorFlow Datasets' own classes write features.json, metadata.json and dataset_info.json.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_info, naming, splits

from selfflow_robotics.data.rlds.encode import EpisodeEncoder
from selfflow_robotics.data.rlds.tfrecord import FRAMING_BYTES, write_record
from selfflow_robotics.errors import UserError


class RldsWriter:
    """Appends episodes to one data set. Use as a context manager; call `finish` when all are there.

    Leaving the context keeps what has been written, also after an exception; only a killed process
    loses the episodes of its unfinished shard (at most `episodes_per_shard` - 1).

    `episodes` lists the metadata of all episodes kept so far, in order; `finished` tells whether
    the data set is complete. Raises UserError if the folder holds something else, a recording of
    another provenance, picture size or quality, or is being written by another process.
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
    ) -> None:
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise UserError(f"data set name '{name}': use lower case letters, digits and _ only")
        if not re.fullmatch(r"\d+\.\d+\.\d+", version):
            raise UserError(f"data set version '{version}': use three numbers such as 0.1.0")
        self.name, self.version = name, version
        self.path = Path(root).expanduser() / name / version
        self.episodes: list[dict[str, Any]] = []
        self._encoder = EpisodeEncoder(image_size, jpeg_quality)
        self._per_shard = episodes_per_shard
        self._shards: list[dict[str, Any]] = []  # {"num_bytes", "episodes"} of each finished shard
        self._file: BinaryIO | None = None
        self._open_shard: dict[str, Any] = {}
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            self._folder = os.open(self.path, os.O_RDONLY)
        try:
            with self._writing():
                self._lock()
                self._resume(
                    {
                        "provenance": json.loads(json.dumps(provenance)),
                        "image_size": list(image_size),
                        "jpeg_quality": jpeg_quality,
                    }
                )
        except BaseException:
            os.close(self._folder)
            raise

    @property
    def episodes_done(self) -> int:
        """How many episodes the data set holds so far."""
        return len(self.episodes)

    @property
    def finished(self) -> bool:
        return (self.path / "dataset_info.json").exists()

    def write_episode(self, steps: Sequence[dict[str, Any]], metadata: dict[str, Any]) -> None:
        """Append one episode; `steps` as in `EpisodeEncoder.encode`, which says what it refuses.

        metadata: JSON-able; `success` (bool) goes into the record, all of it into metadata.json.
        """
        if self.finished:
            raise UserError(f"{self.path} is a finished data set; record under another version")
        record = self._encoder.encode(steps, success=bool(metadata["success"]))
        metadata = json.loads(json.dumps(metadata))
        with self._writing():
            if self._file is None:
                self._file = self._shard_path(len(self._shards)).open("wb")
                self._open_shard = {"num_bytes": 0, "episodes": []}
            write_record(self._file, record)
            self._open_shard["num_bytes"] += len(record)
            self._open_shard["episodes"].append(metadata)
            self.episodes.append(metadata)
            if len(self._open_shard["episodes"]) == self._per_shard:
                self._seal()

    def finish(self) -> Path:
        """Complete the data set and return its folder. Does nothing if it is complete already."""
        if self.finished:
            return self.path
        with self._writing():
            self._seal()
        if not self._shards:
            raise UserError(f"{self.path}: nothing was recorded, so there is no data set to finish")
        template = naming.ShardedFileTemplate(
            data_dir=tfds.core.Path(self.path),
            dataset_name=self.name,
            split="train",
            filetype_suffix="tfrecord",
        )
        count = len(self._shards)
        with self._writing():
            for number in range(count):
                final = template.sharded_filepath(shard_index=number, num_shards=count)
                self._shard_path(number).replace(os.fspath(final))
            self._write_info(template)
            self._remove_notes()
        return self.path

    def close(self) -> None:
        """Keep what has been written, to go on later, and let go of the folder."""
        if self._folder >= 0:
            try:
                with self._writing():
                    self._seal()
            finally:
                os.close(self._folder)
                self._folder = -1

    def __enter__(self) -> "RldsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what the file system refuses into one line."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path} ({error.strerror or error}); free space or choose "
                "another root"
            ) from error

    def _lock(self) -> None:
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{self.path} is being written by another process; wait for it"
            ) from error

    def _resume(self, identity: dict[str, Any]) -> None:
        """Take over what the folder holds, or make it ours if it is empty."""
        notes = self.path / ("metadata.json" if self.finished else "recording.json")
        if not notes.exists():
            if any(path.suffix != ".tmp" for path in self.path.iterdir()):
                raise UserError(f"{self.path} holds other files; choose another name or version")
            self._write_json(notes, identity)
            return
        found = json.loads(notes.read_text())
        for key, value in identity.items():
            if found.get(key) != value:
                raise UserError(
                    f"{self.path} was recorded with another {_what_differs(key, found, identity)}; "
                    "choose another name or version, or remove the folder"
                )
        if self.finished:
            self.episodes = found["episodes"]
            self._remove_notes()
            return
        while (sidecar := self._sidecar(len(self._shards))).exists():
            shard = json.loads(sidecar.read_text())
            path = self._shard_path(len(self._shards))
            expected = shard["num_bytes"] + FRAMING_BYTES * len(shard["episodes"])
            if not path.exists() or path.stat().st_size != expected:
                raise UserError(
                    f"{path} is missing or cut short; remove {self.path} and record again"
                )
            self._shards.append(shard)
            self.episodes += shard["episodes"]
        # What a killed process left without a sidecar does not count.
        self._shard_path(len(self._shards)).unlink(missing_ok=True)

    def _shard_path(self, number: int) -> Path:
        """A shard's file, under its first name or the one that an interrupted `finish` gave it."""
        path = self.path / f"{self.name}-train.tfrecord-{number:05d}"
        return next(self.path.glob(f"{path.name}-of-*"), path)

    def _sidecar(self, number: int) -> Path:
        return self.path / f"shard-{number:05d}.json"

    def _seal(self) -> None:
        """Bring the open shard to disk and vouch for it."""
        if self._file is None:
            return
        shard, self._open_shard = self._open_shard, {}
        with self._file as file:
            self._file = None
            # A record that failed halfway (disk full) is cut off again.
            file.flush()
            file.truncate(shard["num_bytes"] + FRAMING_BYTES * len(shard["episodes"]))
            os.fsync(file.fileno())
        self._write_json(self._sidecar(len(self._shards)), shard)
        self._shards.append(shard)

    def _write_json(self, path: Path, value: dict[str, Any]) -> None:
        unfinished = path.with_suffix(".tmp")
        with unfinished.open("w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        os.fsync(self._folder)

    def _write_info(self, template: naming.ShardedFileTemplate) -> None:
        recording = json.loads((self.path / "recording.json").read_text())
        info = dataset_info.DatasetInfo(
            builder=dataset_info.DatasetIdentity(
                name=self.name,
                version=tfds.core.Version(self.version),
                data_dir=str(self.path),
                module_name=__name__,
            ),
            description="Robot demonstrations with the features of fractal20220817_data.",
            features=self._encoder.features,
            metadata=tfds.core.MetadataDict(**recording, episodes=self.episodes),
        )
        info.set_file_format("tfrecord")
        split = splits.SplitInfo(
            name="train",
            shard_lengths=[len(shard["episodes"]) for shard in self._shards],
            num_bytes=sum(shard["num_bytes"] for shard in self._shards),
            filename_template=template,
        )
        info.set_splits(splits.SplitDict([split]))
        unfinished = self.path / "info.unfinished"
        unfinished.mkdir(exist_ok=True)
        info.write_to_directory(unfinished)
        # dataset_info.json makes the data set readable, so it comes last.
        for name in ("features.json", "metadata.json", "dataset_info.json"):
            (unfinished / name).replace(self.path / name)
            os.fsync(self._folder)

    def _remove_notes(self) -> None:
        for pattern in ("recording.json", "shard-*.json", "*.tmp"):
            for path in self.path.glob(pattern):
                path.unlink()
        shutil.rmtree(self.path / "info.unfinished", ignore_errors=True)


def _what_differs(key: str, found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """In words; of a table, its first entry that differs."""
    one, other = found.get(key), wanted[key]
    if isinstance(one, dict) and isinstance(other, dict):
        name = min(name for name in {*one, *other} if one.get(name) != other.get(name))
        return f"{key} ({name} {one.get(name)}, now {other.get(name)})"
    return f"{key.replace('_', ' ')} ({one}, now {other})"
