"""Samples of clips and sounds in a folder, generated batch by batch; resumable.

settings.json      what the samples are made of; another request is refused
000000.npz         a sample, exactly: "frames" uint8 [T, H, W, 3], "sound" float32 [S], ...
000000.mp4         the same to look at and listen to: .mp4 (with its sound), .wav or .png
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.evaluation.results import (
    check_settings,
    refuse_strangers,
    write_report,
    writing,
)
from selfflow_robotics.evaluation.sample_media import write_sample
from selfflow_robotics.inference.generate_media import NumberedMedia, Sample
from selfflow_robotics.locks import hold
from selfflow_robotics.whole_file import whole_file

SETTINGS = "settings.json"
OURS = ("settings.*", "samples.*", "*.npz", "*.mp4", "*.wav", "*.png", "*.json", ".lock", ".*.tmp")


@dataclass(frozen=True)
class MediaSamples:
    """So many samples in a folder, finished or not."""

    folder: Path
    settings: dict[str, Any]  # JSON-able: everything the samples depend on
    count: int
    batch_size: int
    fps: float | None  # of clips
    sample_rate: int  # Hz, of sounds

    def stem(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    def make(self, maker: NumberedMedia, on_samples: Callable[[int], object]) -> None:
        """Generate the batches that are missing; `on_samples` is called with the number of samples
        that are there.

        Raises UserError if the folder contains something else, is in use or cannot be written.
        """
        self._open()
        for first in range(0, self.count, self.batch_size):
            numbers = range(first, min(first + self.batch_size, self.count))
            if not all(self._is_whole(number) for number in numbers):
                # Always of the same size: the rounding depends on it.
                samples = maker(range(first, first + self.batch_size))
                for number, sample in zip(numbers, samples, strict=False):
                    self._write(number, sample)
            on_samples(len(numbers))

    def load(self, number: int) -> Sample:
        """A finished sample."""
        with np.load(self.stem(number).with_suffix(".npz"), allow_pickle=False) as archive:
            return dict(archive)

    def _open(self) -> None:
        wanted = {
            **json.loads(json.dumps(self.settings)),
            "count": self.count,
            "batch_size": self.batch_size,
            "fps": self.fps,
            "sample_rate": self.sample_rate,
        }
        path = self.folder / SETTINGS
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            hold(self.folder)
            if path.exists():
                check_settings(path, wanted, "samples")
                return
            refuse_strangers(self.folder, OURS)
            write_report(path, wanted)

    def _write(self, number: int, sample: Sample) -> None:
        with writing(self.folder):
            write_sample(self.stem(number), sample, self.fps, self.sample_rate)
            with whole_file(self.stem(number).with_suffix(".npz")) as file:
                np.savez(file, **sample)  # pyright: ignore[reportArgumentType]

    def _is_whole(self, number: int) -> bool:
        """Whether a sample is there and undamaged (zip files have checksums)."""
        try:
            self.load(number)
        except Exception:  # damaged archives raise many kinds of exceptions
            return False
        return True
