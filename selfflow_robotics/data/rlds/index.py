"""Random access to an RLDS data set in RT-1's format, without TensorFlow.

One pass over the shards notes where every picture lies and keeps all small values in memory; a
picture is then read and decoded on its own. Memory: about 80 bytes a step (300 MB for the 3.8
million steps of fractal20220817_data).
"""

import contextlib
import hashlib
import io
import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from selfflow_robotics.data.rlds.metadata import check_size, read_history
from selfflow_robotics.data.rlds.scan import JPEG_START, read_info, scan_shards
from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.normalize import NormStats

_log = logging.getLogger(__name__)

# Smaller data sets are indexed in about two seconds, so only larger ones leave a file in the cache.
CACHE_FROM_BYTES = 2**28
_INDEX_VERSION = 3


class RldsIndex:
    """One split of a data set on disk. Steps are numbered 0 to num_frames - 1 over all episodes.

    | attribute      | type            | meaning                                              |
    |----------------|-----------------|------------------------------------------------------|
    | episode_start  | int64 [E]       | the first step of each episode                       |
    | episode_length | int64 [E]       | its number of steps, at least 2                      |
    | success        | bool [E]        | the recorded aspects/success                         |
    | actions        | float32 [N, 7]  | policy vectors (`robot.actions`), metres and radians |
    | proprio        | float32 [N, 8]  | tool xyz (m), quaternion xyzw, gripper_closed        |
    | image_size     | (int, int)      | height, width of the stored pictures                 |
    | disturbed      | bool [E]        | the recorded actions are not all that moved the arm  |
    | provenance     | dict            | the data set's name, and how it was made if told     |
    | left_out       | dict[str, int]  | episodes that are not in the index, counted by cause |
    """

    def __init__(
        self,
        shards: list[Path],
        tables: dict[str, np.ndarray],
        provenance: dict[str, Any],
        disturbed: np.ndarray,
    ) -> None:
        self.shards = shards
        self.provenance = provenance
        self.disturbed = disturbed
        self.episode_start = tables["episode_start"]
        self.episode_length = tables["episode_length"]
        self.success = tables["success"]
        self.actions = tables["actions"]
        self.proprio = tables["proprio"]
        self.instructions: list[str] = tables["instructions"].tolist()
        self.left_out = {
            "shorter than two steps": int(tables["left_out"][0]),
            "numbers not finite": int(tables["left_out"][1]),
        }
        self._instruction = tables["instruction"]
        self._shard = tables["shard"]
        self._offset = tables["offset"]
        self._size = tables["size"]
        self.num_episodes = len(self.episode_start)
        self.num_frames = len(self.actions)
        height, width = self._picture(0).shape[:2]
        self.image_size = (height, width)

    @classmethod
    def open(
        cls, directory: str | Path, split: str = "train", cache: bool = True, verify: str = "full"
    ) -> "RldsIndex":
        """Open `<root>/<name>/<version>`, indexing it if the cache does not know it.

        verify: "full" compares every record's checksum, "length" the framing only.
        Raises UserError for a data set that is unfinished, incomplete or damaged.
        """
        directory = Path(directory).expanduser()
        shards, lengths, info = read_info(directory, split)
        total = sum(path.stat().st_size for path in shards)
        cached = (
            _cache_path(directory, shards, verify) if cache and total >= CACHE_FROM_BYTES else None
        )
        tables = _load(cached) if cached else None
        if tables is None:
            tables = scan_shards(shards, lengths, total, verify == "full")
            if cached:
                _save(cached, tables)
        history = read_history(directory, info, tables, sum(lengths))
        check_size(directory, info, split, total)
        index = cls(shards, tables, *history)
        for cause, count in index.left_out.items():
            if count:
                _log.warning("%s: %d episodes left out: %s", directory, count, cause)
        return index

    def instruction_of(self, frame: int) -> str:
        """The words that belong to a step; may be empty."""
        return self.instructions[self._instruction[frame]]

    def episode_of(self, frames: np.ndarray) -> np.ndarray:
        """The episode that each of the steps [...] lies in."""
        return np.searchsorted(self.episode_start, frames, side="right") - 1

    def encoded_frame(self, frame: int) -> bytes:
        """The stored JPEG or PNG file of one step."""
        # Opened anew each time: no handle is shared between threads or processes, and a data set
        # of a thousand shards does not use up the file descriptors. It costs 1 % of the decoding.
        path = self.shards[self._shard[frame]]
        handle = os.open(path, os.O_RDONLY)
        try:
            return os.pread(handle, int(self._size[frame]), int(self._offset[frame]))
        finally:
            os.close(handle)

    def frame(self, frame: int) -> np.ndarray:
        """The picture of one step, uint8 [H, W, 3]; exactly what TensorFlow's decoder makes of it.

        Raises UserError naming the shard, episode and step of a picture that cannot be decoded.
        """
        image = self._picture(frame)
        if image.shape != (*self.image_size, 3):
            raise UserError(
                f"{self._where(frame)}: the picture is {image.shape}, others are "
                f"{(*self.image_size, 3)}; record one data set with one camera size"
            )
        return image

    def stats(self, episodes: Sequence[int] | None = None) -> NormStats:
        """Statistics of the actions of the chosen episodes (None: all)."""
        if episodes is None:
            return NormStats.compute(self.actions, self.num_episodes)
        starts, lengths = self.episode_start[episodes], self.episode_length[episodes]
        steps = [self.actions[a : a + n] for a, n in zip(starts, lengths, strict=True)]
        return NormStats.compute(np.concatenate(steps), len(steps))

    def _picture(self, frame: int) -> np.ndarray:
        try:
            return _decode(self.encoded_frame(frame))
        except (ValueError, OSError) as error:
            raise UserError(
                f"{self._where(frame)}: damaged picture ({error}); copy the file again"
            ) from error

    def _where(self, frame: int) -> str:
        episode = int(self.episode_of(np.asarray(frame)))
        step = frame - self.episode_start[episode]
        return f"{self.shards[self._shard[frame]]}: episode {episode}, step {step}"


def _decode(data: bytes) -> np.ndarray:
    if data.startswith(JPEG_START):
        # The fast transform gives TensorFlow's default decoding bit for bit; a picture cut short
        # or with a broken stream raises ValueError.
        return simplejpeg.decode_jpeg(data, fastdct=True, strict=True)
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _cache_path(directory: Path, shards: list[Path], verify: str) -> Path:
    """Where this data set's index is kept; other features, shards or times give another name."""
    key = hashlib.sha256(f"{_INDEX_VERSION} {verify}".encode())
    key.update((directory / "features.json").read_bytes())
    for path in shards:
        status = path.stat()
        key.update(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode())
    root = os.environ.get("SELFFLOW_CACHE") or Path.home() / ".cache" / "selfflow_robotics"
    return Path(root) / "rlds" / f"{key.hexdigest()}.npz"


def _load(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # not there, or left unfinished by a full disk: build it anew


def _save(path: Path, tables: dict[str, Any]) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(unfinished, **tables)
        unfinished.replace(path)
    except OSError as error:
        _log.warning("the index is not kept: %s", error)
        with contextlib.suppress(OSError):
            unfinished.unlink()
