"""Batches of training windows: one frame, the next actions and, for video, later frames."""

import math
import mmap
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from selfflow_robotics.data.robot_index import RobotIndex
from selfflow_robotics.robot.actions import ARM

CACHE_BYTES = 3 * 2**30
MOST_THREADS = 8  # for decoding the images of a batch


@dataclass
class WindowBatch:
    """B windows, numpy. F = future frames, H = horizon.

    Frames are `frame_stride` control steps apart (`WindowReader`); actions are those of the H
    control steps from the first frame on, whatever the stride. Beyond an episode's end, frames
    repeat the last one; actions keep the arm still (zeros) and the gripper as it was. Both are
    marked as not valid.
    """

    # uint8 [B, 1 + F, h, w, 3], or latents float16 [B, 1 + F, C, h, w]; frame 0 is the current one
    frames: np.ndarray
    frames_valid: np.ndarray  # bool [B, 1 + F]
    actions: np.ndarray  # float32 [B, H, 7] policy vectors in metres and radians
    action_valid: np.ndarray  # bool [B, H]
    proprio: np.ndarray  # float32 [B, 8]
    instruction: list[str]
    episode: np.ndarray  # int64 [B], episode number in the index
    step: np.ndarray  # int64 [B], within the episode


class FrameReader(Protocol):
    """Source of the frames of windows: decoded images, or cached latents."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one frame."""
        ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self, frames: np.ndarray) -> np.ndarray:
        """Frames [N, *shape] of the steps with these numbers (int64 [N]). Thread-safe."""
        ...


class DecodedFrames:
    """The stored images, decoded and resized by one thread per core.

    Threads suffice, since decoding and resizing run outside Python's global lock. In a worker
    process (`data.workers`) there is one.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, index: RobotIndex, image_size: tuple[int, int]) -> None:
        self._index, self._size = index, image_size
        self.shape = (*image_size, 3)
        self._num_threads = min(len(os.sched_getaffinity(0)), MOST_THREADS)

    def read(self, frames: np.ndarray) -> np.ndarray:
        """As `FrameReader.read`. Raises UserError if an image cannot be decoded."""
        if self._num_threads == 1 or multiprocessing.parent_process() is not None:
            return self._index.read_frames(frames, self._size)
        pictures = np.empty((len(frames), *self.shape), self.dtype)

        def decode(rows: np.ndarray) -> None:
            pictures[rows] = self._index.read_frames(frames[rows], self._size)

        parts = np.array_split(np.arange(len(frames)), self._num_threads)
        with ThreadPoolExecutor(self._num_threads) as threads:
            for _ in threads.map(decode, [part for part in parts if len(part)]):
                pass  # re-raises exceptions of the threads
        return pictures


class WindowReader:
    """All windows of the chosen episodes, one starting at each step, in the index's order.

    `frames` is the source of frames; None: images resized to `image_size`. They are kept in memory,
    shared with forked processes, if all of them fit into `cache_bytes`. With `frame_stride` n, a
    window has every n-th frame, and still every action: a robot executes all of them, so none may
    be left out or summed up.
    """

    def __init__(
        self,
        index: RobotIndex,
        horizon: int = 6,
        future_frames: int = 0,
        image_size: tuple[int, int] = (64, 80),
        episodes: Sequence[int] | None = None,
        cache_bytes: int = CACHE_BYTES,
        frames: FrameReader | None = None,
        frame_stride: int = 1,
    ) -> None:
        self.index = index
        self.image_size = image_size
        self._frames = DecodedFrames(index, image_size) if frames is None else frames
        self._ahead = np.arange(horizon)
        self._frames_ahead = np.arange(1 + future_frames) * frame_stride
        chosen = (
            np.arange(index.num_episodes) if episodes is None else np.asarray(episodes, np.int64)
        )
        # Windows and cached frames are numbered by the steps of the chosen episodes.
        self._episodes, self._ends = chosen, np.cumsum(index.episode_length[chosen])
        shape, dtype = (len(self), *self._frames.shape), self._frames.dtype
        fits = math.prod(shape) * dtype.itemsize <= cache_bytes
        self._cache = _shared(shape, dtype) if fits else None
        self._cached = _shared((len(self),), np.dtype(bool)) if fits else None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(
        self, windows: Sequence[int] | np.ndarray, future_frames: int | None = None
    ) -> WindowBatch:
        """The windows with these numbers, each 0 to len - 1. Thread-safe.

        `future_frames`: number of later frames, if fewer than the reader's. Raises UserError if an
        image cannot be decoded.
        """
        place = np.asarray(windows, np.int64)
        if len(place) and not 0 <= place.min() <= place.max() < len(self):
            raise IndexError(f"windows are numbered 0 to {len(self) - 1}")
        episode = self._episode_of(place)
        last = self._ends[episode, None] - 1
        frames_ahead = self._frames_ahead[: None if future_frames is None else 1 + future_frames]
        seen = place[:, None] + frames_ahead
        acted = place[:, None] + self._ahead
        action_valid = acted <= last
        frame = self._frame_of(place)
        actions = self.index.actions[frame[:, None] + np.minimum(acted, last) - place[:, None]]
        actions[..., ARM] *= action_valid[..., None]
        return WindowBatch(
            frames=self._pictures(np.minimum(seen, last)),
            frames_valid=seen <= last,
            actions=actions,
            action_valid=action_valid,
            proprio=self.index.proprio[frame],
            instruction=[self.index.instruction_of(one) for one in frame],
            episode=self._episodes[episode],
            step=frame - self.index.episode_start[self._episodes[episode]],
        )

    def _episode_of(self, place: np.ndarray) -> np.ndarray:
        """Which of the chosen episodes the windows [...] are in."""
        return np.searchsorted(self._ends, place, side="right")

    def _frame_of(self, place: np.ndarray) -> np.ndarray:
        """The steps of the index at which the windows [...] start."""
        episode = self._episode_of(place)
        chosen = self._episodes[episode]
        start = self._ends[episode] - self.index.episode_length[chosen]
        return self.index.episode_start[chosen] + place - start

    def _pictures(self, place: np.ndarray) -> np.ndarray:
        """Frames [..., *shape] of the places [...]."""
        wanted, inverse = np.unique(place.reshape(-1), return_inverse=True)
        if self._cache is None:
            pictures = self._frames.read(self._frame_of(wanted))[inverse]
        else:
            assert self._cached is not None
            new = wanted[~self._cached[wanted]]
            self._cache[new] = self._frames.read(self._frame_of(new))
            self._cached[new] = True  # set last, as another thread or process may be reading
            pictures = self._cache[place.reshape(-1)]
        return pictures.reshape(*place.shape, *self._frames.shape)


def _shared(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros in memory that forked processes share; pages that are never written take none."""
    size = math.prod(shape)
    if size == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer(mmap.mmap(-1, size * dtype.itemsize), dtype, size).reshape(shape)
