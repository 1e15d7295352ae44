"""Clips and sounds to measure: results of eval/media.py, and folders of videos or sounds."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from selfflow_robotics.data.captioned_files import MediaFiles, list_media
from selfflow_robotics.data.skips import Unusable
from selfflow_robotics.data.sounds import SOUNDS, SoundShape
from selfflow_robotics.data.videos import VIDEOS, ClipShape
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.media_files import SETTINGS, MediaSamples
from selfflow_robotics.evaluation.metrics.sources import Samples, Source
from selfflow_robotics.json_file import read_json

# Part of a sample -> what feature networks call it (`sources.KINDS`).
CALLED = {"frames": "videos", "sound": "sounds", "picture": "images"}
Read = TypeVar("Read")


@dataclass(frozen=True)
class PartOfSamples:
    """One part of samples, read when it is needed."""

    numbers: list[int]  # of the samples; `read` takes unusable ones out and raises Unusable
    read: Callable[[int], np.ndarray]
    part_shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.part_shape)

    def __len__(self) -> int:
        return len(self.numbers)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        usable = _usable(self.numbers, self.read)
        while batch := list(islice(usable, size)):
            yield np.stack(batch)


def _usable(numbers: list[int], read: Callable[[int], Read]) -> Iterator[Read]:
    """What `read` makes of the numbers, without unusable ones."""
    for number in tuple(numbers):
        try:
            one = read(number)
        except Unusable:
            continue
        yield one


@dataclass(frozen=True)
class Frames:
    """All frames of clips as images, for framewise metrics."""

    clips: PartOfSamples

    @property
    def together(self) -> int:
        """Frames of a clip, which resemble each other."""
        return self.clips.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        count, steps, *image = self.clips.shape
        return (count * steps, *image)

    @property
    def dtype(self) -> np.dtype:
        return self.clips.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        left = np.zeros((0, *self.shape[1:]), self.dtype)
        for clip in self.clips.batches(1):
            left = np.concatenate([left, clip[0]])
            while len(left) >= size:
                yield left[:size]
                left = left[size:]
        if len(left):
            yield left


def is_generated(path: Path) -> bool:
    """Whether a folder has results of eval/media.py."""
    return (path / SETTINGS).is_file()


def open_generated(given: str) -> Source:
    """Results of eval/media.py. Raises UserError if they are unfinished or damaged."""
    folder = Path(given).expanduser()
    path = folder / SETTINGS
    try:
        settings = read_json(path)
        count, batch, fps, rate = (
            settings[key] for key in ("count", "batch_size", "fps", "sample_rate")
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged, or of an earlier version ({type(error).__name__}: {error}); "
            "generate again to another folder"
        ) from error
    job = MediaSamples(folder, {}, count, batch, fps, rate)
    missing = sum(not job.stem(number).with_suffix(".npz").exists() for number in range(count))
    if missing:
        raise UserError(
            f"{folder}: {missing} of {count} samples are missing; repeat eval/media.py to finish"
        )

    def read(number: int) -> dict[str, np.ndarray]:
        try:
            return job.load(number)
        except Exception as error:  # damaged archives raise many kinds of exceptions
            raise UserError(
                f"{job.stem(number)}.npz is damaged; repeat eval/media.py to replace it"
            ) from error

    content = {"settings": hashlib.sha256(path.read_bytes()).hexdigest()}
    return _source(given, read(0), list(range(count)), read, content, fps, rate)


def open_recorded(given: str, like: Source) -> Source:
    """The captioned videos or sounds of a folder, each read as the samples `like` are: as many
    frames at the same rate and size, as many seconds at the same sample rate.

    Those that cannot be read are left out and counted. Raises UserError if there are no others.
    """
    videos, sounds = like.parts.get("videos"), like.parts.get("sounds")
    readers: dict[str, ClipShape | SoundShape] = {}
    if videos is not None:
        assert like.fps is not None
        _, steps, height, width, _ = videos.shape
        readers["frames"] = ClipShape(steps, like.fps, (height, width))
    if sounds is not None:
        assert like.sample_rate is not None
        seconds = sounds.shape[1] / like.sample_rate
        readers["sound"] = SoundShape(seconds, like.sample_rate, min(0.1, seconds))
    files = list_media(given, VIDEOS if videos is not None else SOUNDS, readers)
    numbers, skips = list(range(len(files))), files.skips

    def read(number: int) -> dict[str, np.ndarray]:
        try:
            return files.read(number)
        except (Unusable, OSError) as error:
            cause = str(error) if isinstance(error, Unusable) else "unreadable file"
            skips.add(cause, files.name(number))
            numbers.remove(number)
            raise Unusable(cause) from error

    first = next(_usable(numbers, read), None)
    if first is None:
        raise UserError(
            f"no file in {given} can be used: {skips.text_with_examples()}; repair them, or choose "
            "another reference"
        )
    content, rate = _content(files, readers), like.sample_rate
    return replace(_source(given, first, numbers, read, content, like.fps, rate), skips=skips)


def _content(files: MediaFiles, readers: Mapping[str, Any]) -> dict[str, Any]:
    return {"files": files.record()["fingerprint"], "read as": repr(readers)}


def _source(
    given: str,
    first: Mapping[str, np.ndarray],
    numbers: list[int],
    read: Callable[[int], dict[str, np.ndarray]],
    content: dict[str, Any],
    fps: float | None,
    sample_rate: int | None,
) -> Source:
    parts: dict[str, Samples] = {}
    for part, value in first.items():
        one = PartOfSamples(
            numbers, lambda number, part=part: read(number)[part], value.shape, value.dtype
        )
        parts[CALLED[part]] = one
        if part == "frames":
            parts["images"] = Frames(one)
    return Source(given, None, content, sample_rate=sample_rate, fps=fps, parts=parts)
