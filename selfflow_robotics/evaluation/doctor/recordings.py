"""The recorded episodes that the doctor looks at."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.data.index_tables import why_left_out
from selfflow_robotics.data.rlds.info import Piece, read_info
from selfflow_robotics.data.rlds.pictures import decode_picture
from selfflow_robotics.data.rlds.scan import read_episode
from selfflow_robotics.data.rlds.schema import BRIDGE, FRACTAL
from selfflow_robotics.data.rlds.tfrecord import read_records
from selfflow_robotics.errors import UserError


@dataclass(frozen=True, eq=False)
class Recording:
    """One episode of T steps, as a reading of the data takes it.

    `conventions` has functions that return a Recording in which one convention is read differently.
    """

    number: int  # record of the split, counted over all shards
    instruction: str
    actions: np.ndarray  # float64 [T, 7] policy vectors (`robot.actions`), m and rad
    gripper_command: np.ndarray  # float32 [T], as stored
    proprio: np.ndarray  # float64 [T, 8] tool xyz (m), quaternion xyzw, gripper_closed; base frame
    note: dict[str, Any]  # what this project records of an episode: seed, task, ...; may be empty
    disturbed: bool  # the recorded actions are not all that moved the arm
    first_image: Callable[[], np.ndarray] = field(repr=False)  # uint8 [H, W, 3], of the first step
    hold: int = 1  # control steps that each action lasts

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Recordings:
    """The first episodes of a data set."""

    directory: Path
    name: str
    layout: str  # whose features: FRACTAL's or BRIDGE's name
    provenance: dict[str, Any]
    episodes: list[Recording]


def read_recordings(directory: str, split: str, most: int) -> Recordings:
    """The first `most` usable episodes of a split.

    Raises UserError for a damaged data set, and if no episode is usable.
    """
    info = read_info(Path(os.path.expanduser(directory)))
    tables = islice(_usable(info.pieces(split)), most)
    provenance: dict[str, Any] = {"dataset": info.name}
    episodes: list[Recording] = []
    for record, table, number in tables:
        if table["recording"]:
            provenance |= json.loads(table["recording"])["provenance"]
        episodes.append(_recording(record, table, number))
    if not episodes:
        raise UserError(f"{directory}: split '{split}' has no usable episode")
    layout = BRIDGE.name if info.layout is BRIDGE else FRACTAL.name
    return Recordings(info.directory, info.name, layout, provenance, episodes)


def _usable(pieces: list[Piece]) -> Iterator[tuple[bytes, dict[str, Any], int]]:
    """(record, its values as of `read_episode`, its number in the split) of usable episodes."""
    for piece in pieces:
        records = read_records(piece.path, True, slice(piece.skip, piece.skip + piece.take))
        for count, (_, record) in enumerate(records, piece.skip):
            table = read_episode(record, f"{piece.path}: record {count} (counted from 0)", None)
            if why_left_out(table) is None:
                yield record, table, piece.before + count


def _recording(record: bytes, table: dict[str, Any], number: int) -> Recording:
    start, size = int(table["offset"][0]), int(table["size"][0])
    image = record[start : start + size]
    return Recording(
        number=number,
        instruction=table["texts"][0],
        actions=table["actions"].astype(np.float64),
        gripper_command=table["gripper_command"],
        proprio=table["proprio"].astype(np.float64),
        note=table["note"],
        disturbed=table["disturbed"] == 1,
        first_image=lambda: decode_picture(image),
    )
