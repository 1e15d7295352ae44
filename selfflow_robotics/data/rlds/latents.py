"""Frames of a robot data set as latents, encoded once (`data.latents_writer`).

Row n of the cache is step n of the index: only means, float16, no labels. With SD-VAE a frame of
256 x 320 px takes 10 KB, all 3.8 million of fractal20220817_data 39 GB.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.data.latents import LatentRows
from selfflow_robotics.data.latents_record import ROBOT, Size, sides
from selfflow_robotics.data.robot_data import open_robot_data
from selfflow_robotics.data.robot_index import RobotIndex
from selfflow_robotics.data.skips import Skips
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.latents import ImageLatents, latents_per_token
from selfflow_robotics.robot.observation import resize_image


@functools.lru_cache(1)  # a process encodes many parts of the same data set
def _opened(directory: Path, split: str) -> RobotIndex:
    return open_robot_data(directory, split)


@dataclass(frozen=True)
class RldsFrames:
    """The frames of one split, or a contiguous range of them, as a source of latents.

    Other processes open the data set themselves. An unreadable frame stops the encoding, since rows
    are indexed by frame number.
    """

    directory: str
    split: str
    fingerprint: str  # length of the whole split
    start: int
    stop: int
    skips: Skips = field(default_factory=Skips)  # always empty

    @classmethod
    def open(cls, directory: str | Path, split: str = "train") -> "RldsFrames":
        """All frames. Raises UserError as `open_robot_data`."""
        index = _opened(Path(directory).absolute(), split)
        return cls(str(directory), split, index.fingerprint, 0, index.num_frames)

    @property
    def index(self) -> RobotIndex:
        """Raises UserError if the data have changed."""
        index = _opened(Path(self.directory).absolute(), self.split)
        if index.fingerprint != self.fingerprint:
            raise UserError(f"{self.directory} changed while it was encoded; repeat the command")
        return index

    @property
    def num_found(self) -> int:
        return len(self)

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> "RldsFrames":
        """A range of frames, counted from this part's first one."""
        first = self.start + start
        return replace(self, start=first, stop=min(self.start + stop, self.stop))

    def record(self) -> dict[str, Any]:
        return {
            "path": self.directory,
            "kind": ROBOT,
            "split": self.split,
            "num_pictures": len(self),
            "fingerprint": self.fingerprint,
        }

    def check_output(self, folder: Path) -> None:
        """Any folder is fine: latents next to a data set are not mistaken for part of it."""

    labels = captions = None
    noun = "frames"

    def name(self, number: int) -> str:
        return f"step {self.start + number} of {self.directory}"

    def read(self, number: int, size: Size) -> np.ndarray:
        """uint8 [h, w, 3]. Raises UserError if the frame is unreadable."""
        return resize_image(self.index.frame(self.start + number), sides(size))


class FrameLatents(LatentRows):
    """A finished cache of the frames of `index`, by frame number.

    Raises UserError as `LatentRows`, and if the cache belongs to different data.
    """

    of = ROBOT
    dtype = np.dtype(np.float16)

    def __init__(self, folder: str | Path, index: RobotIndex) -> None:
        super().__init__(folder)
        if self.fingerprints["source"] != index.fingerprint or len(self) != index.num_frames:
            source = self.record["source"]
            raise UserError(
                f"{self.folder} has latents of different data ({source.get('path')}, split "
                f"{source.get('split')}); encode this data with pretrain/encode.py --data DIR "
                "split=SPLIT"
            )
        self.channels: int = self.record["latents"]["channels"]
        height, width = sides(self.record["latents"]["size"])
        self.shape = (self.channels, height, width)  # of a frame
        self.image_size = sides(self.record["image_size"])  # px, before encoding

    def codec(self, patch: int) -> ImageLatents:
        """The codec for these latents in tokens of `patch` px; without an autoencoder until it is
        loaded. Raises UserError if a token is not a whole number of latents."""
        height, width = self.shape[1:]
        down = self.image_size[0] // height
        return ImageLatents(
            (height, width),
            self.channels,
            latents_per_token(patch, down),
            self.autoencoder,
            self.fingerprints["autoencoder"],
            down,
        )

    def read(self, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        """Latents float16 [N, C, h, w] of these steps.

        Raises UserError for a damaged shard, IndexError for numbers out of range.
        """
        return np.ascontiguousarray(self.rows(frames)["mean"])
