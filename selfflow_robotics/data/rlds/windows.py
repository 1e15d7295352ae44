"""Batches of training windows: one picture, the next actions and, for video, pictures to come."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.robot.actions import ARM
from selfflow_robotics.robot.observation import resize_image

CACHE_BYTES = 3 * 2**30
MOST_THREADS = 8  # that decode the pictures of one batch


@dataclass
class WindowBatch:
    """B windows, numpy. F = future frames, H = horizon.

    Beyond an episode's end a frame repeats the last one; an action keeps the arm still (zeros) and
    the gripper as it was. Both are marked as not valid.
    """

    # uint8 [B, 1 + F, h, w, 3], or latents float16 [B, 1 + F, C, h, w]; frame 0 is the present one
    frames: np.ndarray
    frames_valid: np.ndarray  # bool [B, 1 + F]
    actions: np.ndarray  # float32 [B, H, 7] policy vectors in metres and radians
    action_valid: np.ndarray  # bool [B, H]
    proprio: np.ndarray  # float32 [B, 8]
    instruction: list[str]
    episode: np.ndarray  # int64 [B], as numbered in the index
    step: np.ndarray  # int64 [B], within the episode


class FrameReader(Protocol):
    """What windows show of each step of a data set: pictures, or latents that stand for them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one frame."""
        ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self, frames: np.ndarray) -> np.ndarray:
        """Frames [N, *shape] of the steps of these numbers (int64 [N]). Safe to call from several
        threads."""
        ...


class DecodedFrames:
    """The stored pictures, decoded and scaled by a thread for each core.

    Threads, not processes: decoding and scaling run outside Python's global lock, and a process
    would have to hand its pictures over.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, index: RldsIndex, image_size: tuple[int, int]) -> None:
        self._index, self._size = index, image_size
        self.shape = (*image_size, 3)
        self._num_threads = min(len(os.sched_getaffinity(0)), MOST_THREADS)

    def read(self, frames: np.ndarray) -> np.ndarray:
        """Raises UserError for the first picture that cannot be decoded."""
        pictures = np.empty((len(frames), *self.shape), self.dtype)

        def decode(rows: np.ndarray) -> None:
            for row in rows:
                pictures[row] = resize_image(self._index.frame(int(frames[row])), self._size)

        parts = np.array_split(np.arange(len(frames)), self._num_threads)
        with ThreadPoolExecutor(self._num_threads) as threads:
            for _ in threads.map(decode, [part for part in parts if len(part)]):
                pass  # raises what a thread raised
        return pictures


class WindowReader:
    """All windows of the chosen episodes, one starting at every step, in the index's order.

    `frames` gives what they show, pictures of `image_size` where it is None; these are kept in
    memory if all of them fit into `cache_bytes`.
    """

    def __init__(
        self,
        index: RldsIndex,
        horizon: int = 6,
        future_frames: int = 0,
        image_size: tuple[int, int] = (64, 80),
        episodes: Sequence[int] | None = None,
        cache_bytes: int = CACHE_BYTES,
        frames: FrameReader | None = None,
    ) -> None:
        self.index = index
        self.image_size = image_size
        self._frames = DecodedFrames(index, image_size) if frames is None else frames
        self._ahead = np.arange(horizon)
        self._frames_ahead = np.arange(1 + future_frames)
        chosen = (
            np.arange(index.num_episodes) if episodes is None else np.asarray(episodes, np.int64)
        )
        lengths = index.episode_length[chosen]
        # A window is known by its place among the chosen episodes' steps; so are cached pictures.
        ends = np.cumsum(lengths)
        self._episode = np.repeat(chosen, lengths)
        self._last = np.repeat(ends - 1, lengths)
        self._step = np.arange(len(self._episode)) - np.repeat(ends - lengths, lengths)
        self._frame = index.episode_start[self._episode] + self._step
        shape, dtype = (len(self), *self._frames.shape), self._frames.dtype
        fits = math.prod(shape) * dtype.itemsize <= cache_bytes
        self._cache = np.zeros(shape, dtype) if fits else None
        self._cached = np.zeros(len(self), bool)

    def __len__(self) -> int:
        return len(self._episode)

    def read(
        self, windows: Sequence[int] | np.ndarray, future_frames: int | None = None
    ) -> WindowBatch:
        """The windows of the given numbers, each 0 to len - 1. Safe to call from several threads.

        `future_frames` reads fewer pictures than the reader was made for. Raises UserError for a
        picture that cannot be decoded.
        """
        place = np.asarray(windows, np.int64)
        if len(place) and not 0 <= place.min() <= place.max() < len(self):
            raise IndexError(f"windows are numbered 0 to {len(self) - 1}")
        last = self._last[place, None]
        frames_ahead = self._frames_ahead[: None if future_frames is None else 1 + future_frames]
        seen = place[:, None] + frames_ahead
        acted = place[:, None] + self._ahead
        action_valid = acted <= last
        actions = self.index.actions[self._frame[np.minimum(acted, last)]]
        actions[..., ARM] *= action_valid[..., None]
        return WindowBatch(
            frames=self._pictures(np.minimum(seen, last)),
            frames_valid=seen <= last,
            actions=actions,
            action_valid=action_valid,
            proprio=self.index.proprio[self._frame[place]],
            instruction=[self.index.instruction_of(frame) for frame in self._frame[place]],
            episode=self._episode[place],
            step=self._step[place],
        )

    def _pictures(self, place: np.ndarray) -> np.ndarray:
        """Frames [..., *shape] of the places [...]."""
        wanted, inverse = np.unique(place.reshape(-1), return_inverse=True)
        if self._cache is None:
            pictures = self._frames.read(self._frame[wanted])[inverse]
        else:
            new = wanted[~self._cached[wanted]]
            self._cache[new] = self._frames.read(self._frame[new])
            self._cached[new] = True  # after the pictures: another thread may be reading
            pictures = self._cache[place.reshape(-1)]
        return pictures.reshape(*place.shape, *self._frames.shape)
