"""Cached indices of large robot data sets: built once, found by content, rebuilt if damaged.

An index belongs to the content of its data set, not to a path or time, so it is found again for a
copy elsewhere. Processes and nodes that share the folder wait for the one that builds it. The
format is safetensors, which cannot run code and refuses inconsistent sizes before allocating.
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

from selfflow_robotics.data.index_tables import Columns, Tables, plausible
from selfflow_robotics.locks import alone
from selfflow_robotics.whole_file import whole_file

VERSION = 6  # of the tables; part of every key
_CHECKSUM = "checksum"
_log = logging.getLogger(__name__)


def cache_path(kind: str, key: str) -> Path | None:
    """The file of an index: `kind` is the format of the data, `key` the hash of its content. None
    without a home directory, as some containers are, unless SELFFLOW_CACHE names a folder."""
    root = os.environ.get("SELFFLOW_CACHE")
    if not root:
        try:
            root = Path.home() / ".cache" / "selfflow_robotics"
        except RuntimeError:
            return None
    return Path(root) / kind / f"{key}.safetensors"


def cached(
    path: Path | None,
    columns: Columns,
    most_bytes: int,
    fits: Callable[[Tables], bool],
    build: Callable[[], Tables],
) -> Tables:
    """The tables in the file `path`; if it is missing or wrong, those that `build` returns, which
    are stored there whole or not at all.

    The file has at most `most_bytes`, and `fits` compares its tables with the data. If it cannot be
    stored, or `path` is None, this only warns.
    """
    if path is None:
        _log.warning("the index is not cached: there is no home directory; set SELFFLOW_CACHE")
        return build()
    tables = _load(path, columns, most_bytes, fits)
    if tables is not None:
        return tables
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("the index is not cached: %s", error)
        return build()
    with alone(path.parent.parent / f".{path.stem}.lock", "that builds the index of these data"):
        tables = _load(path, columns, most_bytes, fits)  # of the process that had the lock
        if tables is None:
            tables = build()
            _save(path, columns, tables)
    return tables


def _save(path: Path, columns: Columns, tables: Tables) -> None:
    arrays = {
        key: np.frombuffer(json.dumps(value).encode(), np.uint8) if key in columns.texts else value
        for key, value in tables.items()
    }
    arrays[_CHECKSUM] = _checksum(arrays)
    try:
        with whole_file(path) as file:
            file.write(to_safetensors(arrays))
    except OSError as error:
        _log.warning("the index is not cached: %s", error)


def _load(
    path: Path, columns: Columns, most_bytes: int, fits: Callable[[Tables], bool]
) -> Tables | None:
    """None if there are no tables, or if they are damaged or of other data."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > most_bytes:
                return None
            arrays = from_safetensors(file.read())
        if not np.array_equal(arrays.pop(_CHECKSUM), _checksum(arrays)):
            return None
        tables = {
            key: json.loads(value.tobytes()) if key in columns.texts else value
            for key, value in arrays.items()
        }
        return tables if plausible(columns, tables) and fits(tables) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        return None  # missing, or incomplete after a full disk


def _checksum(arrays: dict[str, np.ndarray]) -> np.ndarray:
    crc = 0
    for key in sorted(arrays):
        crc = google_crc32c.extend(crc, key.encode() + np.ascontiguousarray(arrays[key]).tobytes())
    return np.array([crc], np.uint32)
