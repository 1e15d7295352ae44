"""A cache of latents: images encoded once by an autoencoder, read many times.

    cache.json          the autoencoder, the source, the labels that rows have, and each shard's
                        rows and sha256; written last, so its presence vouches for the rest
    shard-00000.npy     rows of `row_dtype`: mean, std, label; one image is one stretch of bytes
    shard-00000.jsonl   with captions (`data.captions`): a line per row, the list of its captions

Frames of a robot's data set have no label, and only their mean is stored (`data.rlds.latents`).
Rows of captioned clips and sounds have the means of their parts: frames, sound or both
(`data.media_latents`).

Mean and standard deviation are those of the autoencoder's posterior, float16, already scaled for
the network (`autoencoders.latent`); training samples new latents from them in every epoch. With
`mirror`, rows 2i and 2i + 1 are an image and its mirror image, since latents cannot be flipped.
`data.latents_writer` writes such folders.

At 256 px a row takes 16 KB for SD-VAE (4 x 32 x 32) and 786 KB for RAE (768 x 16 x 16; half of it
is a standard deviation of zeros). ImageNet's 1.28 million training images take 21 GB and 1.0 TB,
twice that with mirror images.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.data.captions import Captions
from selfflow_robotics.data.latents_record import (
    MEDIA,
    RECORD,
    ROBOT,
    dtype_of,
    is_labelled,
    read_record,
    sides,
)
from selfflow_robotics.data.sampler import EpochSampler
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.latents import ImageLatents
from selfflow_robotics.rng import Name, draw

OPEN_SHARDS = 256  # a mapped file uses a descriptor, and a process has about a thousand


class LatentBatch(NamedTuple):
    """B rows, numpy."""

    mean: np.ndarray  # float16 [B, C, h, w]
    std: np.ndarray  # float16 [B, C, h, w], >= 0
    labels: np.ndarray  # int64 [B], 0 to num_classes - 1


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.npy"


def captions_path(shard: Path) -> Path:
    """The file with the captions of a shard's rows."""
    return shard.with_suffix(".jsonl")


def sample_posterior(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Latents float32 [B, C, h, w] sampled from N(mean, std^2), on the device of the tensors and
    the generator."""
    noise = draw(torch.randn, mean.shape, generator)
    return mean.float() + std.float() * noise


# What rows are, by the kind of their source.
KINDS = {"images": "images with labels", ROBOT: "a robot's frames", MEDIA: "clips or sounds"}


class LatentRows:
    """Random access to the rows of a finished cache. Each shard's checksum is verified before its
    first use.

    Raises UserError if there is no finished cache, if a part is damaged or missing, or if it is
    none `of` this kind.
    """

    of: ClassVar[str]  # one of `KINDS`

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(os.path.expanduser(folder))
        self.record = read_record(self.folder)
        found = "images" if is_labelled(self.record) else self.record["source"]["kind"]
        if found != self.of:
            raise UserError(
                f"{self.folder} holds latents of {KINDS[found]}, not of {KINDS[self.of]}; choose "
                "another folder"
            )
        self._shards: list[dict[str, Any]] = self.record["shards"]
        self._ends = np.cumsum([shard["rows"] for shard in self._shards])
        self._dtype = dtype_of(self.record)
        self._checked = np.zeros(len(self._shards), bool)
        self._open_rows = lru_cache(OPEN_SHARDS)(self._open)
        for number, shard in enumerate(self._shards):
            path = shard_path(self.folder, number)
            check_size(path, shard["bytes"])
            if "captions" in shard:
                check_size(captions_path(path), shard["captions"]["bytes"])

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

    def sampler(self, batch_size: int, seed: int, *names: Name) -> EpochSampler:
        """The shuffled order of the rows, a function of (seed, step) and of other names."""
        return EpochSampler(len(self), batch_size, seed, *names)

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows with these numbers (0 to len - 1), of `row_dtype`.

        Raises UserError for a damaged shard, IndexError for numbers out of range.
        """
        wanted = np.asarray(indices, np.int64)
        shard, offsets = self._find(wanted)
        rows = np.empty(len(wanted), self._dtype)
        for number in np.unique(shard):
            mine = shard == number
            rows[mine] = self._open_rows(int(number))[offsets[mine]]
        return rows

    @cached_property
    def _captions(self) -> list[list[Captions]]:
        """Of the rows of each shard."""
        return [
            read_captions(captions_path(shard_path(self.folder, number)), entry)
            for number, entry in enumerate(self._shards)
        ]

    def captions(self, indices: Sequence[int] | np.ndarray) -> list[Captions]:
        """Of the rows with these numbers. Raises UserError for damaged files."""
        shards, offsets = self._find(np.asarray(indices, np.int64))
        return [self._captions[n][row] for n, row in zip(shards, offsets, strict=True)]

    def first_captions(self, count: int) -> list[str]:
        """The first captions of the first rows. Raises UserError for damaged files."""
        return [captions[0] for captions in self.captions(range(min(count, len(self))))]

    def all_captions(self) -> set[str]:
        """The texts of all captions. Raises UserError for damaged files."""
        return {text for shard in self._captions for row in shard for text in row}

    def _find(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shard of each row, and the row's place there."""
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows are numbered 0 to {len(self) - 1}")
        shard = np.searchsorted(self._ends, wanted, side="right")
        sizes = np.array([entry["rows"] for entry in self._shards])
        return shard, wanted - (self._ends - sizes)[shard]

    def _open(self, number: int) -> np.ndarray:
        path = shard_path(self.folder, number)
        if not self._checked[number]:
            check_shard(path, self._shards[number])
            self._checked[number] = True
        return open_shard(path, self._dtype, self._shards[number]["rows"])


class LatentReader(LatentRows):
    """A finished cache of images with labels or captions."""

    of = "images"

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.channels: int = self.record["latents"]["channels"]
        self.latent_size = sides(self.record["latents"]["size"])
        self.image_size = sides(self.record["image_size"])  # px
        self.captioned: bool = self.record["source"].get("captions", False)
        self.num_classes: int = self.record["source"]["num_classes"]
        self.class_names: list[str] | None = self.record["source"]["class_names"]

    def codec(self, patch: int) -> ImageLatents:
        """The codec of these latents in tokens of `patch` latents, without its autoencoder. Raises
        UserError if they do not divide into patches."""
        return ImageLatents(
            self.latent_size,
            self.channels,
            patch,
            self.autoencoder,
            self.fingerprints["autoencoder"],
            self.image_size[0] // self.latent_size[0],
        )

    @cached_property
    def labels(self) -> list[int]:
        """Labels that occur, ascending; other classes have no images."""
        recorded = self.record.get("labels")  # absent in caches of earlier versions
        return used_labels(self.folder, self.record) if recorded is None else recorded

    @property
    def copies(self) -> int:
        """Adjacent rows per image: 2 with `mirror`, else 1."""
        return 2 if self.record["mirror"] else 1

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


def used_labels(folder: Path, record: dict[str, Any]) -> list[int]:
    """The labels that occur in the shards, ascending."""
    found: set[int] = set()
    for number, entry in enumerate(record["shards"]):
        rows = open_shard(shard_path(folder, number), dtype_of(record), entry["rows"])
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


def read_captions(path: Path, entry: dict[str, Any]) -> list[Captions]:
    """The captions of a shard's rows; `entry` is the shard's record. Raises UserError if the file
    is not what was written."""
    check_shard(path, entry["captions"])
    try:
        rows = [tuple(json.loads(line)) for line in path.read_text().splitlines()]
        if len(rows) != entry["rows"] or not all(rows):
            raise ValueError
    except ValueError:
        raise UserError(f"the captions in {path} do not match {RECORD}; encode again") from None
    return rows


def check_shard(path: Path, shard: dict[str, Any]) -> None:
    """Raises UserError if a shard, or the file with its captions, is not bit-identical to what was
    written."""
    check_size(path, shard["bytes"])
    if sha256_of(path) != shard["sha256"]:
        raise UserError(
            f"{path} is damaged (sha256 differs); remove it, and repeat pretrain/encode.py to "
            "restore it"
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
