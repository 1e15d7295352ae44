"""A trained network of labelled pictures and what has to be known to use it."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.errors import UserError
from selfflow_robotics.models.convert import read_released
from selfflow_robotics.models.image_sit import ImageSiT, ImageSiTConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.models.weights_file import SUFFIXES
from selfflow_robotics.training.checkpoint import (
    MANIFEST,
    latest_checkpoint,
    load_module,
    load_part,
    read_manifest,
    resolve_checkpoint,
    resuming,
)


@dataclass
class ImageNetwork:
    """The moving-average weights of a run, or the released ones, ready to be sampled."""

    model: ImageSiT
    autoencoder: AutoencoderConfig  # what turns its latents into pictures
    class_names: list[str] | None
    checkpoint: Path
    fingerprint: str | None = None  # of the autoencoder that made the latents it was trained on
    # Classes that training had, None for all: the embeddings of others are as they were drawn.
    labels: list[int] | None = None
    taken: str = ""  # which of a foreign file's weights these are, in words; see `read_released`


def image_record(
    model: ImageSiTConfig,
    autoencoder: AutoencoderConfig,
    class_names: list[str] | None,
    latents: dict[str, str],
    labels: list[int] | None = None,
) -> dict[str, Any]:
    """The `extra` of a checkpoint's manifest: all that `load_image_network` reads back.

    `latents` are the fingerprints of what the latents are made of, `autoencoder` and `source`;
    `labels` those that have pictures, None for all.
    """
    return {
        "image_model": asdict(model),
        "autoencoder": {"kind": autoencoder.kind, "weights": autoencoder.weights},
        "class_names": class_names,
        "latents": latents,
        "labels": labels,
    }


def check_same_latents(run: Path, latents: dict[str, str], folder: Path) -> None:
    """Raise UserError where `run` has a checkpoint that was trained on other latents than those
    that `folder` holds; `latents` as in `image_record`."""
    newest = latest_checkpoint(run)
    if newest is None:
        return
    with resuming(run):
        record = read_manifest(newest)["extra"]
    if record.get("latents", latents) != latents:
        raise UserError(
            f"{run} was trained on other latents than {folder} holds now; give the new run another "
            "name=..., or put the former latents back"
        )


def is_image_record(record: dict[str, Any]) -> bool:
    """Whether a checkpoint's `extra` is of such a network."""
    return "image_model" in record


def check_numbers(sit: SiTConfig, fields: dict[str, Any]) -> None:
    """Raise TypeError where a network's shape, read from JSON, holds anything but its numbers."""
    for name, value in {**vars(sit), **fields}.items():
        if name in ("sit", "learn_sigma", "mlp_ratio"):
            continue
        parts = value if name == "image_size" else [value]
        if value is not None and not all(type(part) is int for part in parts):
            raise TypeError(f"{name} is {value!r:.40}")


def is_released_file(path: Path) -> bool:
    """Whether the path means a file of released weights, not a run or checkpoint folder."""
    return path.is_file() or (path.suffix in SUFFIXES and not path.is_dir())


def weights_hash(path: Path) -> str:
    """sha256 of a weights file; of a checkpoint that of its manifest, which has the checksums."""
    path = path / MANIFEST if path.is_dir() else path
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_image_network(path: Path, device: torch.device, heads: int | None = None) -> ImageNetwork:
    """The network of a run folder or checkpoint of pretrain/images.py, or of a file with the
    paper's released weights (.pt, .safetensors), whose autoencoder is SD-VAE.

    `heads` is for released weights of a size that `models.convert` does not know.
    Raises UserError where there is none, it is damaged, or it is something else.
    """
    if is_released_file(path):
        model, taken = read_released(path, heads)
        return ImageNetwork(model.to(device).eval(), AutoencoderConfig(), None, path, taken=taken)
    checkpoint = resolve_checkpoint(path)
    record = read_manifest(checkpoint)["extra"]
    if not is_image_record(record):
        raise UserError(
            f"{checkpoint} is no network of labelled pictures; pretrain/images.py trains one"
        )
    tensors = load_part(checkpoint, "teacher")
    try:
        fields = dict(record["image_model"])
        fields["sit"] = SiTConfig(**fields["sit"])
        check_numbers(fields["sit"], fields)
        shape = ImageSiTConfig(**fields)
        autoencoder = AutoencoderConfig(**record["autoencoder"])
        class_names = record["class_names"]
        fingerprint = record.get("latents", {}).get("autoencoder")
        labels = record.get("labels")  # absent where an earlier version trained
        if labels is not None and not set(labels) <= set(range(shape.num_classes)):
            raise ValueError("labels are no classes")
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{checkpoint} does not describe a network this version knows ({error})"
        ) from error
    model = load_module(lambda: ImageSiT(shape), tensors, checkpoint).to(device).eval()
    return ImageNetwork(model, autoencoder, class_names, checkpoint, fingerprint, labels or None)
