"""Frames of a video by number: seek to the keyframe before, and decode from there."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from selfflow_robotics.errors import UserError

MOST_IDLE = 16  # videos that stay open, each about 1 MB


class VideoFacts(NamedTuple):
    """What a video's header says."""

    frames: int
    size: tuple[int, int]  # height, width
    fps: float


def read_facts(path: Path) -> VideoFacts:
    """Without decoding. Raises UserError if the file is missing or no video."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        return VideoFacts(
            stream.frames, (stream.height, stream.width), float(rate) if rate else 0.0
        )


class Video:
    """An open video. Not thread-safe."""

    def __init__(self, path: Path, fps: float) -> None:
        """Raises UserError if it cannot be opened."""
        self.path = path
        self._opening = _opened(path)
        self._container = self._opening.__enter__()
        self._stream = self._container.streams.video[0]
        # Threads are spread over videos, and each of a decoder's own keeps frames in memory.
        self._stream.codec_context.thread_count = 1
        base = self._stream.time_base
        assert base is not None
        self._ticks = 1 / (fps * float(base))  # of a frame
        self._first = self._stream.start_time or 0
        self._reformatter = VideoReformatter()
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._next: int | None = None  # the frame that the decoder returns next

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames uint8 [H, W, 3] by number, counted from 0; fastest in rising order.

        Raises UserError for damaged and missing ones.
        """
        for number in numbers:
            try:
                frame = self._decode(number)
                picture = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
            except av.error.FFmpegError as error:
                self._next = None
                raise UserError(
                    f"{self.path}: frame {number} cannot be decoded ({error.strerror}); copy the "
                    "file again"
                ) from error
            yield picture

    def close(self) -> None:
        self._opening.__exit__(None, None, None)

    def _decode(self, number: int) -> av.VideoFrame:
        pts = self._first + round(number * self._ticks)
        if self._next is None or not self._keyframe_before(pts) <= self._next <= number:
            self._container.seek(pts, stream=self._stream, backward=True)
            self._frames = self._container.decode(self._stream)
        for frame in self._frames:
            assert frame.pts is not None
            found = round((frame.pts - self._first) / self._ticks)
            self._next = found + 1
            if found >= number:
                if found == number:
                    return frame
                break
        self._next = None
        raise UserError(f"{self.path}: it has no frame {number}; copy the file again")

    def _keyframe_before(self, pts: int) -> int:
        """The last frame up to `pts` from which decoding can start."""
        entries = self._stream.index_entries
        place = entries.search_timestamp(pts)
        return 0 if place < 0 else round((entries[place].timestamp - self._first) / self._ticks)


class VideoPool:
    """Open videos, so that not every window opens its own. Thread-safe, and safe to fork."""

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._lock = threading.Lock()
        self._idle: list[Video] = []  # the longest unused first; several of a path for threads
        self._inherited: list[list[Video]] = []
        self._process = os.getpid()

    @contextmanager
    def borrow(self, path: Path) -> Iterator[Video]:
        """A video for one thread. Raises UserError if it cannot be opened."""
        with self._lock:
            if self._process != os.getpid():
                # A forked process shares the position in files that its parent opened. It must not
                # close them either: that waits for threads that only the parent has.
                self._inherited.append(self._idle)
                self._idle, self._process = [], os.getpid()
            mine = [place for place, one in enumerate(self._idle) if one.path == path]
            video = self._idle.pop(mine[-1]) if mine else None
        video = video or Video(path, self._fps)
        yield video  # after an error, it is not used again
        with self._lock:
            self._idle.append(video)
            evicted = self._idle[:-MOST_IDLE]
            self._idle = self._idle[-MOST_IDLE:]
        for one in evicted:
            one.close()


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    try:
        container = av.open(os.fspath(path))
    except (OSError, av.error.FFmpegError) as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}); copy it again") from error
    with container:
        if not container.streams.video:
            raise UserError(f"{path} has no video stream; copy it again")
        yield container
