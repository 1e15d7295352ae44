"""Clips out of video files: a fixed number of frames at a fixed rate, by their time stamps.

Frame k of a clip is what the video shows k / fps seconds after its first frame. The distances of a
file's frames do not matter, so videos of variable frame rate come out at the right speed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from PIL import Image

from selfflow_robotics.data.images_decode import centre_crop
from selfflow_robotics.data.skips import Unusable
from selfflow_robotics.errors import UserError, check_least

VIDEOS = (".mp4", ".webm", ".avi", ".gif", ".mov", ".mkv")
MOST_FRAMES, MOST_PX = 1024, 4096
EPS = 1e-6  # s: time stamps are rounded


@dataclass(frozen=True)
class ClipShape:
    """The clip that is read from the beginning of each video."""

    frames: int = 16
    fps: float = 8.0
    image_size: tuple[int, int] = (32, 48)  # (height, width) px

    def __post_init__(self) -> None:
        check_least(self, 1, "frames", prefix="clip.")
        if self.frames > MOST_FRAMES:
            raise UserError(f"clip.frames must be at most {MOST_FRAMES}, got {self.frames}")
        if not 0.01 <= self.fps <= 1000:
            raise UserError(f"clip.fps must be from 0.01 to 1000, got {self.fps}")
        if not all(1 <= px <= MOST_PX for px in self.image_size):
            raise UserError(f"clips must have sides of 1 to {MOST_PX} px, got {self.image_size}")

    @property
    def seconds(self) -> float:
        """How long the clip takes, with its last frame."""
        return self.frames / self.fps

    def read(self, path: Path) -> np.ndarray:
        """The clip at the beginning of a video: uint8 [T, H, W, 3], cropped like images.

        Raises OSError, and Unusable: "unreadable video", "no frames" or "too short" (it ends before
        the last frame of the clip).
        """
        if not path.is_file():  # a pipe would wait for a writer
            raise OSError(f"{path} is not a regular file")
        try:
            with av.open(os.fspath(path)) as container:
                if not container.streams.video:
                    raise Unusable("no frames")
                return self._clip(_timed_frames(container))
        except av.error.FFmpegError:
            raise Unusable("unreadable video") from None

    def _clip(self, timed: Iterator[tuple[float, av.VideoFrame]]) -> np.ndarray:
        pictures: list[np.ndarray] = []
        shown, picture, last, gap = None, None, 0.0, 0.0
        for time, frame in timed:
            # The frame before is shown until this one.
            while shown is not None and len(pictures) / self.fps < time - EPS:
                picture = self._picture(shown) if picture is None else picture
                pictures.append(picture)
                if len(pictures) == self.frames:
                    return np.stack(pictures)
            gap = float(frame.duration * (frame.time_base or 0)) or time - last
            shown, picture, last = frame, None, time
        if shown is None:
            raise Unusable("no frames")
        final = (self.frames - 1) / self.fps
        if final > last + EPS and final > last + gap - EPS:
            raise Unusable("too short")
        pictures += [self._picture(shown)] * (self.frames - len(pictures))
        return np.stack(pictures)

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        pixels = frame.to_ndarray(format="rgb24")
        if frame.rotation % 90 == 0:  # of phones that were held upright
            pixels = np.rot90(pixels, frame.rotation // 90)
        image = Image.fromarray(np.ascontiguousarray(pixels))
        if image.size == (self.image_size[1], self.image_size[0]):
            return np.asarray(image)
        return centre_crop(image, self.image_size)


def _timed_frames(container: InputContainer) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames with their times in seconds from the first one, in the order of their times."""
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # processes share the cores
    base = stream.time_base or Fraction(1, 1000)
    first, before = None, -1.0
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        first = frame.pts if first is None else first
        time = float((frame.pts - first) * base)
        if time > before:
            yield time, frame
            before = time
