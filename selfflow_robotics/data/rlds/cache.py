"""A cached index of a large data set; it is rebuilt if anything is wrong with it.

It is identified by content, not by path or age: by the JSON files and the length and checksum of
every record. The format is safetensors, which cannot run code and refuses inconsistent sizes before
allocating.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

from selfflow_robotics.data.rlds.info import Piece
from selfflow_robotics.whole_file import whole_file

_log = logging.getLogger(__name__)

_VERSION = 4
# The tables: dtype, and shape after the step or episode axis.
_PER_STEP = {
    "actions": (np.float32, (7,)),
    "proprio": (np.float32, (8,)),
    "instruction": (np.int32, ()),
    "shard": (np.int32, ()),
    "offset": (np.int64, ()),
    "size": (np.int32, ()),
    "crc": (np.uint32, ()),
}
_PER_EPISODE = {
    "episode_start": (np.int64, ()),
    "episode_length": (np.int64, ()),
    "success": (np.bool_, ()),
    "failed": (np.bool_, ()),
    "record": (np.int64, ()),
    "disturbed": (np.int8, ()),
}
_TEXTS = ("instructions", "recordings")  # lists of strings, as JSON
_CHECKSUM = "checksum"


def path_of(
    directory: Path, pieces: list[Piece], framing: dict[Path, np.ndarray], verify: str
) -> Path:
    """The path of the index of these pieces, which depends on their content."""
    key = hashlib.sha256(f"{_VERSION} {verify}".encode())
    for name in ("features.json", "dataset_info.json"):
        key.update((directory / name).read_bytes())
    for piece in pieces:
        key.update(f"{piece.path.name} {piece.skip} {piece.take} {piece.before}".encode())
        key.update(framing[piece.path].tobytes())
    root = os.environ.get("SELFFLOW_CACHE") or Path.home() / ".cache" / "selfflow_robotics"
    return Path(root) / "rlds" / f"{key.hexdigest()}.safetensors"


def save(path: Path, tables: dict[str, Any]) -> None:
    """Store the tables; if that fails, only warn."""
    arrays = {
        key: np.frombuffer(json.dumps(value).encode(), np.uint8) if key in _TEXTS else value
        for key, value in tables.items()
    }
    arrays[_CHECKSUM] = _checksum(arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(to_safetensors(arrays))
    except OSError as error:
        _log.warning("the index was not cached: %s", error)


def load(path: Path, pieces: list[Piece]) -> dict[str, Any] | None:
    """The tables at `path`; None if there are none or they do not match the pieces."""
    sizes = np.array([piece.path.stat().st_size for piece in pieces], np.int64)
    try:
        with path.open("rb") as file:
            # A step takes more space in the data than in their index.
            if os.fstat(file.fileno()).st_size > sizes.sum() + 2**20:
                return None
            arrays = from_safetensors(file.read())
        if not np.array_equal(arrays.pop(_CHECKSUM), _checksum(arrays)):
            return None
        tables = {
            key: json.loads(value.tobytes()) if key in _TEXTS else value
            for key, value in arrays.items()
        }
        return tables if _fits(tables, sizes) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        return None  # missing, or incomplete after a full disk


def _checksum(arrays: dict[str, np.ndarray]) -> np.ndarray:
    crc = 0
    for key in sorted(arrays):
        crc = google_crc32c.extend(crc, key.encode() + np.ascontiguousarray(arrays[key]).tobytes())
    return np.array([crc], np.uint32)


def _fits(tables: dict[str, Any], sizes: np.ndarray) -> bool:
    """Whether the tables are plausible for shards of these sizes in bytes."""
    lengths, starts, texts = (
        tables[key] for key in ("episode_length", "episode_start", "instructions")
    )
    steps, episodes = len(tables["actions"]), len(lengths)
    for expected, count in ((_PER_STEP, steps), (_PER_EPISODE, episodes)):
        for key, (kind, shape) in expected.items():
            if tables[key].dtype != kind or tables[key].shape != (count, *shape):
                return False
    for key in ("left_out", "image_size"):
        if tables[key].dtype != np.int64 or tables[key].shape != (2,):
            return False
    shard, offset, size = tables["shard"], tables["offset"], tables["size"]
    return bool(
        all(
            isinstance(tables[key], list) and all(isinstance(text, str) for text in tables[key])
            for key in _TEXTS
        )
        and episodes > 0
        and (lengths >= 2).all()
        and (lengths <= steps).all()
        and lengths.sum() == steps
        and (starts == np.cumsum(lengths) - lengths).all()
        and ((shard >= 0) & (shard < len(sizes))).all()
        and ((offset >= 0) & (size > 0) & (offset <= sizes[shard] - size)).all()
        and ((tables["instruction"] >= 0) & (tables["instruction"] < len(texts))).all()
        and np.isfinite(tables["actions"]).all()
        and np.isfinite(tables["proprio"]).all()
        and (tables["image_size"] > 0).all()
    )
