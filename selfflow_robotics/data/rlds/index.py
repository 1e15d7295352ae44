"""Random access to an RLDS data set in RT-1's or Bridge's format, without TensorFlow.

One pass over the shards stores the position of every image and keeps all small values in memory;
images are then read and decoded individually. Memory: about 80 bytes per step (300 MB for the 3.8
million steps of fractal20220817_data).
"""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from selfflow_robotics.data.rlds import cache as index_cache
from selfflow_robotics.data.rlds.info import read_info
from selfflow_robotics.data.rlds.metadata import check_size, read_history
from selfflow_robotics.data.rlds.pictures import decode_picture
from selfflow_robotics.data.rlds.scan import scan_shards
from selfflow_robotics.data.rlds.schema import Layout
from selfflow_robotics.data.rlds.tfrecord import read_framing
from selfflow_robotics.data.robot_index import RobotIndex
from selfflow_robotics.errors import UserError

# Smaller data sets are indexed in about two seconds, so only larger ones are cached.
CACHE_FROM_BYTES = 2**28


class RldsIndex(RobotIndex):
    """One split of an RLDS data set on disk; attributes as in `RobotIndex`."""

    def __init__(
        self,
        shards: list[Path],
        tables: dict[str, Any],
        provenance: dict[str, Any],
        disturbed: np.ndarray,
        layout: Layout | None,
    ) -> None:
        super().__init__(tables, provenance, disturbed, layout)
        self.shards = shards
        self._shard = tables["shard"]
        self._offset = tables["offset"]
        self._size = tables["size"]
        self._crc = tables["crc"]

    @classmethod
    def open(cls, directory: str | Path, split: str = "train", verify: str = "full") -> "RldsIndex":
        """Open `<root>/<name>/<version>`, indexing it if it is not in the cache.

        split: in TensorFlow Datasets syntax, such as train, train[:90%] or train+val. verify:
        "full" checks every record's checksum, "length" only the framing. Raises UserError for a
        data set that is unfinished, incomplete or damaged.
        """
        info = read_info(Path(os.path.expanduser(directory)))
        pieces = info.pieces(split)
        files = sorted({piece.path for piece in pieces})
        missing = [path.name for path in files if not os.path.isfile(path)]
        if missing:
            raise UserError(
                f"{directory}: {len(missing)} of {len(files)} shards missing, first {missing[0]}; "
                "copy them again"
            )
        framing = {path: read_framing(path) for path in files}
        for piece in pieces:
            if len(framing[piece.path]) != piece.records:
                raise UserError(
                    f"{piece.path}: {len(framing[piece.path])} records, but dataset_info.json says "
                    f"{piece.records}; copy both files again"
                )
        total = sum(path.stat().st_size for path in files)
        cached, tables = None, None
        if total >= CACHE_FROM_BYTES:
            cached = index_cache.path_of(info.directory, pieces, framing, verify)
            tables = index_cache.load(cached, pieces)
        if tables is None:
            tables = scan_shards(pieces, verify == "full")
            if cached:
                index_cache.save(cached, tables)
        provenance, disturbed = read_history(info, tables)
        check_size(info, split, total)
        provenance["split"] = split
        index = cls([piece.path for piece in pieces], tables, provenance, disturbed, info.layout)
        index.warn_of_left_out(directory)
        return index

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the episodes' content, independent of paths: all numbers and texts, and the
        checksum of each image file."""
        key = hashlib.sha256(json.dumps([self.instructions, self.image_size]).encode())
        for table in (
            self.episode_length,
            self.success,
            self.disturbed,
            self.actions,
            self.proprio,
            self._instruction,
            self._crc,
        ):
            key.update(np.ascontiguousarray(table).tobytes())
        return key.hexdigest()

    def encoded_frame(self, frame: int) -> bytes:
        """The stored JPEG or PNG file of one step.

        Raises UserError naming the shard, episode and step if it does not match the index.
        """
        # The file is opened for each read: no handle is shared between threads or processes, and a
        # data set of a thousand shards does not exhaust the file descriptors. This costs 1 % of the
        # decoding time, and so does the checksum.
        try:
            handle = os.open(self.shards[self._shard[frame]], os.O_RDONLY)
            try:
                data = os.pread(handle, int(self._size[frame]), int(self._offset[frame]))
            finally:
                os.close(handle)
        except OSError as error:
            raise UserError(
                f"{self._where(frame)}: cannot be read ({error.strerror}); copy the file again"
            ) from error
        if google_crc32c.value(data) != self._crc[frame]:
            raise UserError(
                f"{self._where(frame)}: the image changed after the data set was indexed "
                "(checksum differs); copy the file again"
            )
        return data

    def frame(self, frame: int) -> np.ndarray:
        """The image of one step, uint8 [H, W, 3]; identical to TensorFlow's decoding.

        Raises UserError naming the shard, episode and step if the image cannot be decoded.
        """
        data = self.encoded_frame(frame)
        try:
            return decode_picture(data)
        except ValueError as error:
            raise UserError(
                f"{self._where(frame)}: damaged image ({error}), though its checksum is right: "
                "record or convert this episode again"
            ) from error

    def _where(self, frame: int) -> str:
        episode = int(self.episode_of(np.asarray(frame)))
        step = frame - self.episode_start[episode]
        return f"{self.shards[self._shard[frame]]}: episode {episode}, step {step}"
