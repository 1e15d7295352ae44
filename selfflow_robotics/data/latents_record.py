"""The record of a latent cache (`data.latents`), cache.json: what it says, and its checks."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.data.images_tar import MAX_LABEL
from selfflow_robotics.data.skips import Skips
from selfflow_robotics.errors import UserError
from selfflow_robotics.json_file import read_json

FORMAT = 1
RECORD = "cache.json"
# Kinds of sources; all others are images with labels or captions.
ROBOT = "rlds"  # frames, of any robot data set
MEDIA = "media"  # captioned clips, sounds, or both
MAX_NUMBERS = 1 << 26  # of an image's latents; RAE at 1024 px has 3 million

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


def part_dtype(parts: dict[str, Any]) -> np.dtype:
    """One row of a shard of clips or sounds: the shape of each of its parts."""
    return np.dtype([(name, "<f2", tuple(part["shape"])) for name, part in parts.items()])


def is_media(record: dict[str, Any]) -> bool:
    """Whether cache.json describes captioned clips or sounds."""
    return record["source"].get("kind") == MEDIA


def is_labelled(record: dict[str, Any]) -> bool:
    """Whether cache.json describes labelled images."""
    return record["source"].get("kind") not in (ROBOT, MEDIA)


def dtype_of(record: dict[str, Any]) -> np.dtype:
    """Of the rows that cache.json describes."""
    if is_media(record):
        return part_dtype(record["parts"])
    latents = record["latents"]
    return row_dtype(latents["channels"], latents["size"], is_labelled(record))


# The entries that every reader of cache.json needs.
_TYPES = {
    ("autoencoder", "fingerprint"): str,
    ("source", "fingerprint"): str,
    ("skipped",): dict,
    ("shards",): list,
}
_IMAGE_TYPES = {
    ("autoencoder", "kind"): str,
    ("autoencoder", "weights"): str | None,
    ("image_size",): int | list,
    ("latents", "channels"): int,
    ("latents", "size"): int | list,
}
_LABELLED_TYPES = {
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
    if "captions" in entry:
        for key, kind in (("bytes", int), ("sha256", str)):
            _check_type(f"captions.{key}", entry["captions"][key], kind)
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
    for shape in _shapes(record):
        for side in shape:
            _check_type("a size", side, int)
        if min(shape) < 1:
            raise ValueError("latents without channels or size")
        if math.prod(shape) > MAX_NUMBERS:
            raise ValueError(f"latents of {' x '.join(map(str, shape))} numbers")
    row = dtype_of(record)
    if any(entry["rows"] * row.itemsize > entry["bytes"] for entry in record["shards"]):
        raise ValueError("a shard has more rows than its bytes can hold")
    if not any(entry["rows"] for entry in record["shards"]):
        raise ValueError("no shard has rows")
    if is_labelled(record):
        _check_labels(record)


def _shapes(record: dict[str, Any]) -> list[tuple[int, ...]]:
    """Those of a row's arrays."""
    if is_media(record):
        shapes = [tuple(part["shape"]) for part in record["parts"].values()]
        if not shapes or not all("captions" in entry for entry in record["shards"]):
            raise ValueError("clips or sounds without parts or captions")
        return shapes
    for side in sides(record["image_size"]):
        _check_type("a size", side, int)
    return [(record["latents"]["channels"], *sides(record["latents"]["size"]))]


def _check_labels(record: dict[str, Any]) -> None:
    num_classes, labels = record["source"]["num_classes"], record.get("labels", [0])
    if not 1 <= num_classes <= MAX_LABEL + 1:
        raise ValueError(f"source.num_classes is {num_classes}")
    if not all(type(label) is int and 0 <= label < num_classes for label in labels) or not labels:
        raise ValueError("labels are not classes")
    if type(captioned := record["source"].get("captions", False)) is not bool:
        raise TypeError("source.captions is no bool")
    if any(captioned != ("captions" in entry) for entry in record["shards"]):
        raise ValueError("some shards have captions and others have none")
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
        if not is_media(record):
            _check_types(record, _IMAGE_TYPES)
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
