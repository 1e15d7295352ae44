"""Random access to an RLDS data set in RT-1's or Bridge's format, without TensorFlow.

One pass over the shards stores the position of every image and keeps all small values in memory;
images are then read and decoded individually. Memory: about 80 bytes per step (300 MB for the 3.8
million steps of fractal20220817_data).
"""

import functools
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from selfflow_robotics.data import index_cache
from selfflow_robotics.data.index_tables import Tables
from selfflow_robotics.data.processes import processes_for
from selfflow_robotics.data.rlds.info import Info, Piece, read_info
from selfflow_robotics.data.rlds.metadata import check_size, read_history
from selfflow_robotics.data.rlds.pictures import decode_picture
from selfflow_robotics.data.rlds.scan import COLUMNS, scan_shards
from selfflow_robotics.data.rlds.schema import Layout
from selfflow_robotics.data.rlds.tfrecord import read_framing
from selfflow_robotics.data.robot_index import RobotIndex
from selfflow_robotics.errors import UserError

# Smaller data sets are indexed in about two seconds, so only larger ones are cached.
CACHE_FROM_BYTES = 2**28
BYTES_EACH = 2**27  # that a process reads at least, if several build the index
THREADS = 16  # that read the framing


class RldsIndex(RobotIndex):
    """One split of an RLDS data set on disk; attributes as in `RobotIndex`."""

    def __init__(
        self,
        shards: list[Path],
        tables: Tables,
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
    def open(
        cls,
        directory: str | Path,
        split: str = "train",
        verify: str = "full",
        processes: int | None = None,
    ) -> "RldsIndex":
        """Open `<root>/<name>/<version>`, indexing it if it is not in the cache.

        split: in TensorFlow Datasets syntax, such as train, train[:90%] or train+val. verify:
        "full" checks every record's checksum, "length" only the framing. processes: how many build
        the index; None: one for each core if there is enough to read. Raises UserError for a data
        set that is unfinished, incomplete or damaged.
        """
        info = read_info(Path(os.path.expanduser(directory)))
        pieces = info.pieces(split)
        framing = _framing(pieces, directory)
        sizes = {path: path.stat().st_size for path in framing}
        total = sum(sizes.values())

        def build() -> Tables:
            count = processes or processes_for(total, BYTES_EACH)
            return scan_shards(pieces, verify == "full", count)

        if total < CACHE_FROM_BYTES:
            tables = build()
        else:
            tables = index_cache.cached(
                index_cache.cache_path("rlds", _content(info, pieces, framing, verify)),
                COLUMNS,
                total + 2**20,  # a step takes more space in the data than in the index
                lambda tables: _fits(tables, np.array([sizes[piece.path] for piece in pieces])),
                build,
            )
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


def _framing(pieces: list[Piece], directory: object) -> dict[Path, np.ndarray]:
    """The framing of each shard. Raises UserError for missing, damaged and shorter ones."""
    files = sorted({piece.path for piece in pieces})
    missing = [path.name for path in files if not os.path.isfile(path)]
    if missing:
        raise UserError(
            f"{directory}: {len(missing)} of {len(files)} shards missing, first {missing[0]}; "
            "copy them again"
        )
    # Threads wait for a slow disk together.
    with ThreadPoolExecutor(THREADS) as threads:
        framing = dict(zip(files, threads.map(read_framing, files), strict=True))
    for piece in pieces:
        if len(framing[piece.path]) != piece.records:
            raise UserError(
                f"{piece.path}: {len(framing[piece.path])} records, but dataset_info.json says "
                f"{piece.records}; copy both files again"
            )
    return framing


def _content(info: Info, pieces: list[Piece], framing: dict[Path, np.ndarray], verify: str) -> str:
    """SHA-256 of what the index depends on: features, split, and the names of the shards with the
    length and checksum of every record."""
    key = hashlib.sha256(f"{index_cache.VERSION} {verify}".encode())
    for name in ("features.json", "dataset_info.json"):
        key.update((info.directory / name).read_bytes())
    for piece in pieces:
        key.update(f"{piece.path.name} {piece.skip} {piece.take} {piece.before}".encode())
        key.update(framing[piece.path].tobytes())
    return key.hexdigest()


def _fits(tables: Tables, sizes: np.ndarray) -> bool:
    """Whether all images are inside shards of these sizes in bytes."""
    shard, offset, size = tables["shard"], tables["offset"], tables["size"]
    return bool(
        ((shard >= 0) & (shard < len(sizes))).all()
        and ((offset >= 0) & (size > 0) & (offset <= sizes[shard] - size)).all()
    )
