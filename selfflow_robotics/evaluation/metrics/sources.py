"""What is measured, and against what: an npz, or a folder of images.

`media_sources` opens clips and sounds.
"""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from selfflow_robotics.data.images import ImageList, list_images, read_item
from selfflow_robotics.data.skips import Skips, Unusable
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.metrics.frechet import Gaussian
from selfflow_robotics.evaluation.metrics.npz_file import (
    ARRAY,
    STATISTICS,
    NpzArray,
    array_names,
    read_statistics,
)

DECODERS = 8  # threads; Pillow decodes without Python's lock

# What a feature network reads -> (dimensions, dtype kinds, in words).
KINDS = {
    "images": (4, "u", "images, uint8 [N, H, W, 3]"),
    "videos": (5, "u", "videos, uint8 [N, T, H, W, 3]"),
    "sounds": (2, "f", "sounds, float [N, samples]"),
    "features": (2, "f", "features, float [N, D]"),
}


class Samples(Protocol):
    """N things of one shape, in order; each `together` (1 if it is absent) neighbours are not
    independent of each other, such as the frames of a clip."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, ...]."""
        ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True)
class Folder:
    """The images of a folder or of tars (`data.images`), cropped to squares of `size` px."""

    pictures: ImageList
    size: int
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.uint8))

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.pictures), self.size, self.size, 3)

    def __len__(self) -> int:
        return len(self.pictures)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 [B, size, size, 3]. Raises UserError for an unusable image."""
        part = self.pictures.part(0, len(self))

        def read(number: int) -> np.ndarray:
            try:
                return part.read(number, self.size)
            except (Unusable, OSError) as error:
                raise UserError(
                    f"{self.pictures.root}/{part.name(number)}: {error}; repair or remove it"
                ) from error

        with ThreadPoolExecutor(DECODERS) as pool:
            for start in range(0, len(self), size):
                numbers = range(start, min(start + size, len(self)))
                yield np.stack(list(pool.map(read, numbers)))


@dataclass(frozen=True)
class Source:
    """Samples, statistics of samples, or both (ADM's reference files)."""

    origin: str  # as the user wrote it
    samples: Samples | None
    fingerprint: dict[str, Any]  # of the content
    statistics: dict[str, Gaussian] = field(default_factory=dict)  # by output
    identity: str | None = None  # of the network behind the statistics
    sample_rate: int | None = None  # Hz, of sounds
    notes: list[str] = field(default_factory=list)
    skips: Skips = field(default_factory=Skips)  # files left out; some show only when they are read
    fps: float | None = None  # of clips
    # Of `KINDS`, instead of `samples`: a film is a video, images and a sound.
    parts: dict[str, Samples] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = []
        for kind, samples in {"": self.samples, **self.parts}.items():
            if samples is not None:
                count, *shape = samples.shape
                parts.append(f"{count} {kind} of {' x '.join(map(str, shape))}".replace("  ", " "))
        if self.statistics:
            counts = {gaussian.count for gaussian in self.statistics.values()}
            count = counts.pop()
            parts.append(f"statistics of {count or 'an unknown number of'} images")
        return f"{self.origin} ({', '.join(parts)})"

    @property
    def remarks(self) -> list[str]:
        """The notes, and what was left out so far."""
        if not self.skips.total:
            return self.notes
        return [*self.notes, f"Left out of {self.origin}: {self.skips.text_with_examples()}."]

    def require(self, kind: str) -> Samples:
        """The samples. Raises UserError if there are none, or not of `KINDS[kind]`."""
        dimensions, letters, words = KINDS[kind]
        if kind in self.parts:
            return self.parts[kind]
        if self.parts:
            raise UserError(
                f"{self.origin} has {' and '.join(self.parts)}; the feature network reads {kind}"
            )
        if self.samples is None:
            raise UserError(f"{self.origin} has no {ARRAY}; the metrics need {words}")
        shape, dtype = self.samples.shape, self.samples.dtype
        is_fit = len(shape) == dimensions and dtype.kind == letters and 0 not in shape
        if letters == "u":
            is_fit = is_fit and shape[-1] == 3 and dtype.itemsize == 1
        if kind == "sounds" and self.sample_rate is None:
            is_fit = False
            words += " with their rate in Hz as sample_rate"
        if not is_fit:
            raise UserError(
                f"{self.origin}: {ARRAY} is {dtype} {list(shape)}, not {words}, which the feature "
                "network reads"
            )
        return self.samples


def open_source(given: str, image_size: int | None = None) -> Source:
    """An npz, a folder of images or tar files.

    `image_size` (px) is for folders: their images are cropped to squares as in ADM
    (`data.images_decode`); None: of the first image's shorter side. Raises UserError if there is
    nothing, or something else.
    """
    path = Path(given).expanduser()
    if path.suffix == ".npz" or (path.is_file() and path.suffix != ".tar"):
        return _open_npz(given, path)
    pictures = list_images(path)
    if pictures.skips.total:
        raise UserError(f"{path}: {pictures.skips.text()}; repair or remove them")
    size = image_size or _shorter_side(pictures)
    notes = [f"Images of {path} are scaled and cropped to {size} x {size} px, as in ADM."]
    content = {"images": pictures.fingerprint(), "size": size}
    return Source(given, Folder(pictures, size), content, notes=notes)


def square_size(given: Sequence[str]) -> int | None:
    """The side (px) of the first npz with square images; None: there is none."""
    for one in given:
        path = Path(one).expanduser()
        if path.is_file() and path.suffix == ".npz" and ARRAY in array_names(path):
            shape = NpzArray(path).shape
            if len(shape) == 4 and shape[1] == shape[2]:
                return shape[1]
    return None


def _open_npz(given: str, path: Path) -> Source:
    names = array_names(path)
    has_statistics = any(mu in names for mu, _ in STATISTICS.values())
    if ARRAY not in names and not has_statistics:
        raise UserError(
            f"{path} has neither {ARRAY} nor mu and sigma (it has {', '.join(names)[:80]})"
        )
    samples = NpzArray(path) if ARRAY in names else None
    statistics, identity = read_statistics(path) if has_statistics else ({}, None)
    rate = _rate(path) if "sample_rate" in names else None
    fingerprint: dict[str, Any] = {
        name: NpzArray(path, name).crc
        for name in (ARRAY, *(name for pair in STATISTICS.values() for name in pair))
        if name in names
    }
    if samples is not None:
        fingerprint["shape"] = list(samples.shape)
    return Source(given, samples, fingerprint, statistics, identity, rate)


def _rate(path: Path) -> int:
    with np.load(path, allow_pickle=False) as archive:
        rate = archive["sample_rate"]
    if rate.shape or not 1 <= rate <= 1_000_000:
        raise UserError(f"{path}: sample_rate must be a number of Hz")
    return int(rate)


def _shorter_side(pictures: ImageList) -> int:
    """Of the first image, px."""
    item = pictures.items[0]
    try:
        return min(Image.open(io.BytesIO(read_item(pictures.root, item))).size)
    except Exception as error:  # damaged bytes make decoders raise many kinds of exceptions
        raise UserError(f"{pictures.root}/{item.name}: not an image; remove it") from error
