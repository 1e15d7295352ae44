"""A cache of latents: images encoded once by an autoencoder, read many times.

    cache.json          the autoencoder, the source, the labels that rows have, and each shard's
                        rows and sha256; written last, so its presence vouches for the rest
    shard-00000.npy     rows of `row_dtype`: mean, std, label; one image is one stretch of bytes

Frames of a robot's data set have no label, and only their mean is stored (`data.rlds.latents`).

Mean and standard deviation are those of the autoencoder's posterior, float16, already scaled for
the network (`autoencoders.latent`); training samples new latents from them in every epoch. With
`mirror`, rows 2i and 2i + 1 are an image and its mirror image, since latents cannot be flipped.
`data.latents_writer` writes such folders.

At 256 px a row takes 16 KB for SD-VAE (4 x 32 x 32) and 786 KB for RAE (768 x 16 x 16; half of it
is a standard deviation of zeros). ImageNet's 1.28 million training images take 21 GB and 1.0 TB,
twice that with mirror images.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.data.images_tar import MAX_LABEL
from selfflow_robotics.data.sampler import EpochSampler
from selfflow_robotics.data.skips import Skips
from selfflow_robotics.errors import UserError
from selfflow_robotics.json_file import read_json
from selfflow_robotics.rng import draw

FORMAT = 1
RECORD = "cache.json"
ROBOT = "rlds"  # the kind of source for frames, of any robot data set
MAX_NUMBERS = 1 << 26  # of an image's latents; RAE at 1024 px has 3 million
OPEN_SHARDS = 256  # a mapped file uses a descriptor, and a process has about a thousand


class LatentBatch(NamedTuple):
    """B rows, numpy."""

    mean: np.ndarray  # float16 [B, C, h, w]
    std: np.ndarray  # float16 [B, C, h, w], >= 0
    labels: np.ndarray  # int64 [B], 0 to num_classes - 1


Size = int | Sequence[int]  # both sides, or (height, width)


def sides(size: Size) -> tuple[int, int]:
    """(height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def row_dtype(channels: int, size: Size, labelled: bool = True) -> np.dtype:
    """One row of a shard: a labelled image, or a frame."""
    shape = (channels, *sides(size))
    mean = ("mean", "<f2", shape)
    return np.dtype([mean, ("std", "<f2", shape), ("label", "<i4")] if labelled else [mean])


def is_labelled(record: dict[str, Any]) -> bool:
    """Whether cache.json describes labelled images."""
    return record["source"].get("kind") != ROBOT


def _dtype_of(record: dict[str, Any]) -> np.dtype:
    latents = record["latents"]
    return row_dtype(latents["channels"], latents["size"], is_labelled(record))


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.npy"


def sample_posterior(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Latents float32 [B, C, h, w] sampled from N(mean, std^2), on the device of the tensors and
    the generator."""
    noise = draw(torch.randn, mean.shape, generator)
    return mean.float() + std.float() * noise


class LatentRows:
    """Random access to the rows of a finished cache. Each shard's checksum is verified before its
    first use.

    Raises UserError if there is no finished cache, if a part is damaged or missing, or if its kind
    does not match `labelled`.
    """

    labelled: ClassVar[bool]

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.record = read_record(self.folder)
        if is_labelled(self.record) != self.labelled:
            kinds = ("a robot's frames", "images with labels")
            raise UserError(
                f"{self.folder} holds latents of {kinds[not self.labelled]}, not of "
                f"{kinds[self.labelled]}; choose another folder"
            )
        self.channels: int = self.record["latents"]["channels"]
        self._shards: list[dict[str, Any]] = self.record["shards"]
        self._ends = np.cumsum([shard["rows"] for shard in self._shards])
        self._dtype = _dtype_of(self.record)
        self._checked = np.zeros(len(self._shards), bool)
        self._open_rows = lru_cache(OPEN_SHARDS)(self._open)
        for number, shard in enumerate(self._shards):
            check_size(shard_path(self.folder, number), shard["bytes"])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def autoencoder(self) -> AutoencoderConfig:
        """The autoencoder that made the latents, under its name at that time (never downloaded)."""
        made_by = self.record["autoencoder"]
        return AutoencoderConfig(made_by["kind"], made_by["weights"])

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the autoencoder and of the images."""
        return {name: self.record[name]["fingerprint"] for name in ("autoencoder", "source")}

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows with these numbers (0 to len - 1), of `row_dtype`.

        Raises UserError for a damaged shard, IndexError for numbers out of range.
        """
        wanted = np.asarray(indices, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows are numbered 0 to {len(self) - 1}")
        shard = np.searchsorted(self._ends, wanted, side="right")
        rows = np.empty(len(wanted), self._dtype)
        for number in np.unique(shard):
            mine = shard == number
            first = self._ends[number] - self._shards[number]["rows"]
            rows[mine] = self._open_rows(int(number))[wanted[mine] - first]
        return rows

    def _open(self, number: int) -> np.ndarray:
        path = shard_path(self.folder, number)
        if not self._checked[number]:
            check_shard(path, self._shards[number])
            self._checked[number] = True
        return open_shard(path, self._dtype, self._shards[number]["rows"])


class LatentReader(LatentRows):
    """A finished cache of labelled images."""

    labelled = True

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.latent_size: int = self.record["latents"]["size"]
        self.image_size: int = self.record["image_size"]
        self.num_classes: int = self.record["source"]["num_classes"]
        self.class_names: list[str] | None = self.record["source"]["class_names"]

    @cached_property
    def labels(self) -> list[int]:
        """Labels that occur, ascending; other classes have no images."""
        recorded = self.record.get("labels")  # absent in caches of earlier versions
        return used_labels(self.folder, self.record) if recorded is None else recorded

    @property
    def copies(self) -> int:
        """Adjacent rows per image: 2 with `mirror`, else 1."""
        return 2 if self.record["mirror"] else 1

    def sampler(self, batch_size: int, seed: int) -> EpochSampler:
        """The shuffled order of the rows, a function of (seed, step)."""
        return EpochSampler(len(self), batch_size, seed)

    def read(self, indices: Sequence[int] | np.ndarray) -> LatentBatch:
        """The rows with these numbers, as `rows`."""
        rows = self.rows(indices)
        if len(rows) and not 0 <= rows["label"].min() <= rows["label"].max() < self.num_classes:
            raise UserError(
                f"{self.folder} has labels outside 0 to {self.num_classes - 1}, the classes in "
                f"{RECORD}; encode again"
            )
        return LatentBatch(
            np.ascontiguousarray(rows["mean"]),
            np.ascontiguousarray(rows["std"]),
            rows["label"].astype(np.int64),
        )


# The entries that every reader of cache.json needs.
_TYPES = {
    ("autoencoder", "fingerprint"): str,
    ("autoencoder", "kind"): str,
    ("autoencoder", "weights"): str | None,
    ("image_size",): int | list,
    ("latents", "channels"): int,
    ("latents", "size"): int | list,
    ("source", "fingerprint"): str,
    ("skipped",): dict,
    ("shards",): list,
}
_LABELLED_TYPES = {
    ("image_size",): int,
    ("latents", "size"): int,
    ("mirror",): bool,
    ("source", "num_classes"): int,
    ("source", "class_names"): list | None,
}


# Exceptions from reading a damaged record.
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError)


def check_entry(entry: dict[str, Any]) -> None:
    """Raises one of `DAMAGE` if this is not a shard's record."""
    for key, kind in (("rows", int), ("bytes", int), ("sha256", str)):
        _check_type(key, entry[key], kind)
    Skips.from_record(entry["skipped"])


def _check_types(record: dict[str, Any], types: dict[tuple[str, ...], Any]) -> None:
    for keys, kind in types.items():
        value = record
        for key in keys:
            value = value[key]
        _check_type(".".join(keys), value, kind)


def _check_type(name: str, value: Any, kind: Any) -> None:
    is_right = isinstance(value, kind) and value != []
    if kind is int:
        is_right = type(value) is int and 0 <= value < 1 << 62
    if not is_right:
        raise TypeError(f"{name} is {str(value)[:40]}")


def _check_sizes(record: dict[str, Any]) -> None:
    """Refuse impossible sizes before anything is allocated."""
    latents = record["latents"]
    shape = (latents["channels"], *sides(latents["size"]))
    for side in (*shape, *sides(record["image_size"])):
        _check_type("a size", side, int)
    if min(shape) < 1:
        raise ValueError("latents without channels or size")
    if math.prod(shape) > MAX_NUMBERS:
        raise ValueError(f"latents of {' x '.join(map(str, shape))} numbers")
    row = _dtype_of(record)
    if any(entry["rows"] * row.itemsize > entry["bytes"] for entry in record["shards"]):
        raise ValueError("a shard has more rows than its bytes can hold")
    if not any(entry["rows"] for entry in record["shards"]):
        raise ValueError("no shard has rows")
    if is_labelled(record):
        _check_labels(record)


def _check_labels(record: dict[str, Any]) -> None:
    num_classes, labels = record["source"]["num_classes"], record.get("labels", [0])
    if not 1 <= num_classes <= MAX_LABEL + 1:
        raise ValueError(f"source.num_classes is {num_classes}")
    if not all(type(label) is int and 0 <= label < num_classes for label in labels) or not labels:
        raise ValueError("labels are not classes")
    names = record["source"]["class_names"]
    if names is not None and len(names) != num_classes:
        raise ValueError(f"{len(names)} class_names of {num_classes} classes")


def read_record(folder: Path) -> dict[str, Any]:
    """cache.json of a finished cache. Raises UserError if it is missing, damaged or newer."""
    path = folder / RECORD
    try:
        record = read_json(path)
        if record["format"] != FORMAT:
            raise UserError(
                f"{path} has format {record['format']}, this version reads format {FORMAT}"
            )
        _check_types(record, _TYPES)
        if is_labelled(record):
            _check_types(record, _LABELLED_TYPES)
        for entry in record["shards"]:
            entry.setdefault("skipped", {})
            check_entry(entry)
        Skips.from_record(record["skipped"])
        _check_sizes(record)
        return record
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"no finished latents at {folder}: {RECORD} is missing; create them with "
            "pretrain/encode.py"
        ) from error
    except DAMAGE as error:
        raise UserError(
            f"{path} is damaged ({error}); remove it and encode the images again"
        ) from error


def used_labels(folder: Path, record: dict[str, Any]) -> list[int]:
    """The labels that occur in the shards, ascending."""
    found: set[int] = set()
    for number, entry in enumerate(record["shards"]):
        rows = open_shard(shard_path(folder, number), _dtype_of(record), entry["rows"])
        found.update(np.unique(rows["label"]).tolist())
    return sorted(found)


def open_shard(path: Path, dtype: np.dtype, num_rows: int) -> np.ndarray:
    """A shard's rows, memory-mapped. Raises UserError if they do not match."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if (rows.dtype, rows.shape) != (dtype, (num_rows,)):
            raise ValueError
    except Exception as error:  # numpy raises many kinds of exceptions for foreign headers
        raise UserError(f"the rows of {path} do not match {RECORD}; encode again") from error
    return rows


def check_size(path: Path, num_bytes: int) -> None:
    """Raises UserError if a shard is missing or has a different size."""
    size = path.stat().st_size if path.is_file() else None
    if size != num_bytes:
        if size is None:
            raise UserError(f"{path} is missing; repeat pretrain/encode.py to restore it")
        raise UserError(
            f"{path} has {size} bytes instead of {num_bytes}; remove it, and repeat "
            "pretrain/encode.py to restore it"
        )


def check_shard(path: Path, shard: dict[str, Any]) -> None:
    """Raises UserError if a shard is not bit-identical to what was written."""
    check_size(path, shard["bytes"])
    if sha256_of(path) != shard["sha256"]:
        raise UserError(
            f"{path} is damaged (sha256 differs); remove it, and repeat pretrain/encode.py to "
            "restore it"
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
