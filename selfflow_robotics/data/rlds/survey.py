"""Read a whole data set without stopping at damage: every episode, and every fault by its place.

`RldsIndex` refuses a data set that has one damaged record. This pass goes on, names all of them,
and decodes frames, for a report on the data (`evaluation.pages.data_report`) or to verify a copy.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from selfflow_robotics.data.index_tables import why_left_out
from selfflow_robotics.data.rlds.info import Piece, read_info
from selfflow_robotics.data.rlds.metadata import check_size, read_history
from selfflow_robotics.data.rlds.pictures import decode_picture
from selfflow_robotics.data.rlds.scan import read_episode
from selfflow_robotics.data.rlds.schema import BRIDGE
from selfflow_robotics.data.rlds.tfrecord import masked_crc, readable_framing
from selfflow_robotics.errors import UserError

Frames = Literal["sample", "all", "none"]

# What a fault makes unusable.
FaultKind = Literal["data set", "shard", "record", "episode", "frame"]
_CHUNK = 32  # records in memory: 50 MB of fractal20220817_data
_MOST_THREADS = 8


@dataclass(frozen=True)
class Fault:
    """Something damaged, missing or unusable. Records and steps are counted from 0."""

    kind: FaultKind
    message: str  # one line, with the place
    shard: str = ""  # file name
    record: int | None = None  # in the shard
    step: int | None = None
    cause: str = ""  # of an episode that training leaves out, of `index_tables.LEFT_OUT`


@dataclass(frozen=True, eq=False)
class Episode:
    """An episode of T steps, without its images."""

    path: Path  # its shard
    record: int  # in the shard
    number: int  # record of the split, or of the sum of splits, counted over all shards
    instruction: str  # of the first step
    success: bool | None  # as recorded; None: unknown
    actions: np.ndarray  # float32 [T, 7] policy vectors (`robot.actions`), m and rad
    gripper_command: np.ndarray  # float32 [T], as stored
    proprio: np.ndarray  # float32 [T, 8] tool xyz (m), quaternion xyzw, gripper_closed
    offset: np.ndarray  # int64 [T], of the image files in the shard, bytes
    size: np.ndarray  # int32 [T], bytes
    picture: np.ndarray  # uint32 [T], CRC-32C of each image file
    actions_hash: bytes  # of the stored actions; equal only for the same ones
    frame_hash: bytes  # of the first image file
    frames_decoded: int
    table: dict[str, Any] = field(repr=False)  # recording and disturbed, from the record's note

    def __len__(self) -> int:
        return len(self.actions)

    def encoded_frame(self, step: int) -> bytes:
        """The stored JPEG or PNG file of a step. Raises OSError if the shard is gone."""
        with self.path.open("rb") as file:
            file.seek(int(self.offset[step]))
            return file.read(int(self.size[step]))


@dataclass
class Survey:
    """What `survey` has found."""

    info: Any  # `rlds.info.Info` or `lerobot.info.LeRobotInfo`
    split: str
    shards: list[Path]  # all files
    num_bytes: int
    num_records: int  # as dataset_info.json says
    provenance: dict[str, Any] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None  # height, width
    episodes: list[Episode] = field(default_factory=list)
    disturbed: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # [E]
    faults: list[Fault] = field(default_factory=list)
    absolute_gripper: bool = False  # stored commands: 0 closed to 1 open, not changes

    @property
    def frames_decoded(self) -> int:
        return sum(episode.frames_decoded for episode in self.episodes)


def survey(
    directory: str | Path,
    split: str = "train",
    frames: Frames = "sample",
    tell: Callable[[list[Fault]], None] = lambda faults: None,
) -> Survey:
    """Read every record of a split of `<root>/<name>/<version>` and check its checksums.

    frames: which images to decode: the first, middle and last one of each episode ("sample"), all,
    or none. tell: called with new faults during the pass, those of a record together. Damage is
    recorded in `Survey.faults`. Raises UserError only if dataset_info.json or
    features.json cannot be used, or the split is unknown.
    """
    info = read_info(Path(os.path.expanduser(directory)))
    pieces = _numbered(info.pieces(split))
    shards = sorted({piece.path for piece in pieces})
    found = Survey(info, split, shards, 0, sum(piece.take for piece in pieces))
    found.absolute_gripper = info.layout is BRIDGE
    told = 0

    def tell_new() -> None:
        nonlocal told
        if new := found.faults[told:]:
            tell(new)
        told = len(found.faults)

    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=found.num_records, desc="records", unit="episode", delay=1) as progress,
    ):
        for piece in pieces:
            for chunk in _chunks(piece, found):
                read = partial(_read, size=found.image_size, frames=frames)
                for episode, faults, size in pool.map(read, chunk):
                    found.image_size = found.image_size or size
                    found.faults += faults
                    if episode is not None:
                        found.episodes.append(episode)
                    progress.update()
                tell_new()
            tell_new()
    found.num_bytes = sum(path.stat().st_size for path in shards if path.is_file())
    _read_history(found)
    tell_new()
    return found


def _numbered(pieces: list[Piece]) -> list[Piece]:
    """The pieces; those of a sum of splits count over the sum, so that each record has a number of
    its own."""
    spans = sorted((one.before + one.skip, one.before + one.skip + one.take) for one in pieces)
    if all(end <= start for (_, end), (start, _) in pairwise(spans)):
        return pieces
    starts = np.cumsum([0, *(piece.take for piece in pieces)]).tolist()
    return [
        replace(piece, before=start - piece.skip)
        for piece, start in zip(pieces, starts, strict=False)
    ]


@dataclass(frozen=True)
class _Record:
    piece: Piece
    number: int  # in the shard
    offset: int  # in the file
    data: bytes
    crc: int

    @property
    def where(self) -> str:
        return f"{self.piece.path}: record {self.number} (counted from 0)"

    def fault(
        self, kind: FaultKind, message: str, step: int | None = None, cause: str = ""
    ) -> Fault:
        return Fault(kind, message, self.piece.path.name, self.number, step, cause)


def _chunks(piece: Piece, found: Survey) -> Iterator[list[_Record]]:
    """The piece's readable records; the faults of its shard go into `found`."""
    name = piece.path.name
    try:
        framing, damage = readable_framing(piece.path)
    except UserError as error:
        found.faults.append(Fault("shard", str(error), name))
        return
    if damage is not None or len(framing) != piece.records:
        counts = f"{len(framing)} records readable, dataset_info.json says {piece.records}"
        cause = f"{damage} ({counts})" if damage else f"{piece.path}: {counts}; copy both again"
        found.faults.append(Fault("shard", cause, name))
    chosen = range(len(framing))[piece.skip : piece.skip + piece.take]
    with piece.path.open("rb") as file:
        while chosen:
            count = _CHUNK if found.image_size else 1  # the first image's size is all others'
            chunk = []
            for number in chosen[:count]:
                offset, length, crc = framing[number].tolist()
                file.seek(offset)
                chunk.append(_Record(piece, number, offset, file.read(length), crc))
            chosen = chosen[count:]
            yield chunk


def _read(
    record: _Record, size: tuple[int, int] | None, frames: Frames
) -> tuple[Episode | None, list[Fault], tuple[int, int] | None]:
    """(the episode if it is usable, its faults, its image size)."""
    if masked_crc(record.data) != record.crc:
        message = f"{record.where} is damaged (checksum differs); copy the file again"
        return None, [record.fault("record", message)], None
    try:
        table = read_episode(record.data, record.where, size)
    except UserError as error:
        return None, [record.fault("record", str(error))], None
    if cause := why_left_out(table):
        message = f"{record.where}: {cause}; training leaves it out"
        return None, [record.fault("episode", message, cause=cause)], table["image_size"]
    steps = chosen_steps(len(table["actions"]), frames)
    faults = [fault for step in steps if (fault := _decode(record, table, step))]
    return _episode(record, table, len(steps)), faults, table["image_size"]


def chosen_steps(length: int, frames: Frames) -> list[int]:
    """The steps of an episode whose images are decoded."""
    if frames == "none":
        return []
    return list(range(length)) if frames == "all" else sorted({0, length // 2, length - 1})


def _decode(record: _Record, table: dict[str, Any], step: int) -> Fault | None:
    start = int(table["offset"][step])
    try:
        decode_picture(record.data[start : start + int(table["size"][step])])
    except ValueError as error:
        message = (
            f"{record.where}, step {step}: damaged image ({error}), though the record's checksum "
            "is right: record or convert this episode again"
        )
        return record.fault("frame", message, step)
    return None


def _episode(record: _Record, table: dict[str, Any], frames_decoded: int) -> Episode:
    first = int(table["offset"][0])
    stored = (table["actions"][:, :6], table["gripper_command"])
    return Episode(
        path=record.piece.path,
        record=record.number,
        number=record.piece.before + record.number,
        instruction=table["texts"][0],
        success=True if table["success"] else False if table["failed"] else None,
        actions=table["actions"],
        gripper_command=table["gripper_command"],
        proprio=table["proprio"],
        offset=table["offset"] + record.offset,
        size=table["size"],
        picture=table["crc"],
        actions_hash=hashlib.sha256(b"".join(part.tobytes() for part in stored)).digest(),
        frame_hash=hashlib.sha256(record.data[first : first + int(table["size"][0])]).digest(),
        frames_decoded=frames_decoded,
        table={key: table[key] for key in ("recording", "disturbed")},
    )


def _read_history(found: Survey) -> None:
    """Fill in provenance and `disturbed`, and compare the size of the shards."""
    found.provenance = {"dataset": found.info.name}
    found.disturbed = np.zeros(len(found.episodes), bool)
    if not found.episodes:
        return
    tables = {
        "recordings": list(dict.fromkeys(one.table["recording"] for one in found.episodes)),
        "disturbed": np.array([one.table["disturbed"] for one in found.episodes], np.int8),
        "record": np.array([one.number for one in found.episodes], np.int64),
    }
    try:
        found.provenance, found.disturbed = read_history(found.info, tables)
        if not any(fault.kind == "shard" for fault in found.faults):  # else it is wrong anyway
            check_size(found.info, found.split, found.num_bytes)
    except UserError as error:
        found.faults.append(Fault("data set", str(error)))
