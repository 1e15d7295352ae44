"""Load a trained network for inference, from a checkpoint of any run or from released weights."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.batch import Slot, Words
from selfflow_robotics.commands import command
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.sample import sample
from selfflow_robotics.modalities.actions import Actions
from selfflow_robotics.modalities.base import ACTIONS, FRAMES, Codec, slot_of
from selfflow_robotics.modalities.latents import ImageLatents
from selfflow_robotics.modalities.load import codec_from_json, codec_to_json
from selfflow_robotics.models.convert import read_released
from selfflow_robotics.models.network import Attention, Network, NetworkConfig
from selfflow_robotics.models.released import NAMES, fetch_released
from selfflow_robotics.models.weights_file import SUFFIXES
from selfflow_robotics.text.store import TextStore
from selfflow_robotics.training.checkpoint import (
    MANIFEST,
    load_module,
    load_part,
    read_manifest,
    resolve_checkpoint,
    run_of,
)

RELEASED_PATCH = 2
# Exceptions from records that `Bundle.record` did not write.
_UNFIT = (KeyError, TypeError, ValueError, AttributeError)


@dataclass
class Bundle:
    """A network ready for inference: the moving average of a run, or released weights."""

    network: Network
    codecs: Mapping[str, Codec]  # by adapter name
    roles: tuple[str, ...]  # roles that it was trained on
    provenance: dict[str, Any]  # origin of its training data
    origin: Path  # checkpoint folder or weights file
    device: torch.device
    attention: Attention = "prefix"  # between clean and noised tokens, as in training
    # Classes that occurred in training; None: all. The embeddings of others are untrained.
    labels: list[int] | None = None
    texts: TextStore | None = None  # for networks with a frozen text encoder
    frame_stride: int = 1  # control steps between frames, as in training
    schedule: str = "dual"  # of the actions' timesteps in training (`objective.schedules`)
    taken: str = ""  # which of a file's weights these are; see `read_released`

    @property
    def frames(self) -> Any:
        """The codec of frames."""
        return self.codecs[FRAMES]

    @property
    def labelled(self) -> bool:
        """Whether the network is conditioned on class labels."""
        return bool(self.network.config.num_classes)

    @property
    def horizon(self) -> int:
        """Actions per chunk."""
        return self.network.config.adapters[ACTIONS].steps

    @property
    def later_steps(self) -> int:
        """Most (latent) frames after the first one; each covers `frames.stride` frames."""
        return self.network.config.adapters[FRAMES].steps - 1

    @property
    def later_frames(self) -> int:
        """Most frames after the first one."""
        return self.later_steps * self.frames.stride

    @property
    def most_imagined(self) -> int:
        """Most frames after the first one that `inference.imagine` can tell from the actions of a
        chunk."""
        most = min(self.later_frames, self.horizon // self.frame_stride)
        return most - most % self.frames.stride

    def record(
        self, data: dict[str, str] | None = None, start: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The `extra` of a checkpoint's manifest, which `load_bundle` reads.

        Args:
            data: fingerprints of the data sets, by purpose.
            start: source of the initial weights; None: random.
        """
        return {
            "network": self.network.config.to_json(),
            "codecs": {name: codec_to_json(codec) for name, codec in self.codecs.items()},
            "provenance": self.provenance,
            "roles": sorted(self.roles),
            "attention": self.attention,
            "labels": self.labels,
            "frame_stride": self.frame_stride,
            "schedule": self.schedule,
            "data": data,
            "start": start,
            "texts": None if self.texts is None else self.texts.fingerprint,
        }

    def require(self, role: str) -> Actions:
        """The codec of actions. Raises UserError if the network was not trained on this role."""
        codec = self.codecs.get(ACTIONS)
        if not isinstance(codec, Actions):
            raise UserError(
                f"{self.origin} was not trained on actions; fine-tune it first "
                f"({command('finetune/rt1.py')})"
            )
        if role not in self.roles:
            raise UserError(
                f"{self.origin} was trained with the roles {', '.join(self.roles)}, not {role}; "
                f"fine-tune with roles.{role} above 0"
            )
        return codec

    def with_autoencoder(self, download: bool = False) -> "Bundle":
        """A copy that can encode and decode frames, images and sounds; `download` what is missing.
        Raises UserError as `FrameCodec.load`."""
        told = {"download": True} if download else {}
        codecs: dict[str, Any] = dict(self.codecs)
        try:
            for name, codec in codecs.items():
                if name != ACTIONS:
                    codecs[name] = codec.load(self.device, **told)
        except UserError as error:
            raise UserError(f"{self.origin}: {error}") from error
        return replace(self, codecs=codecs)

    def words(self, texts: Sequence[str]) -> Words:
        """Instructions as input of the network. Raises UserError if one is too long, or if a new
        one needs a text encoder that is missing."""
        return list(texts) if self.texts is None else self.texts.lookup(texts).to(self.device)

    def slot(self, name: str, tokens: Tensor) -> Slot:
        """The slot `name` with tokens [B, N, C] and their places, on the network's device.

        Raises UserError if the network has no such slot.
        """
        self.network.config.adapter_of(name)
        codec = self.codecs.get(self.network.config.slots[name])
        if codec is None:
            raise UserError(f"{self.origin} was not trained on {name}")
        return slot_of(name, codec, tokens.to(self.device))

    def ask(
        self,
        noise: Mapping[str, Tensor],
        clean: Mapping[str, Slot] | None = None,
        *,
        words: Sequence[str] | None = None,
        labels: Tensor | None = None,
        **how: Any,
    ) -> dict[str, Tensor]:
        """Denoise tokens `noise` [B, N, C] of some slots, given clean slots and instructions.

        For `how` see `inference.sample.sample`.
        """
        return sample(
            self.network,
            {name: self.slot(name, x) for name, x in noise.items()},
            clean=clean,
            words=None if words is None else self.words(words),
            no_words=None if words is None else self.words([""] * len(words)),
            labels=labels,
            attention=self.attention,
            **how,
        )

    def in_bfloat16(self) -> "Bundle":
        """A copy with all network weights in bfloat16."""
        return replace(self, network=copy.deepcopy(self.network).bfloat16())


def load_bundle(path: Path, device: torch.device | str, heads: int | None = None) -> Bundle:
    """Load a run folder, a checkpoint, or a file with the paper's released weights (.pt or
    .safetensors), whose autoencoder is SD-VAE.

    `heads`: attention heads, for released weights of a size that `models.convert` does not know.
    Raises UserError if it is missing or damaged, or was written by another version.
    """
    device = torch.device(device)
    if is_released_file(path):
        if (path.parent / MANIFEST).is_file():
            raise UserError(f"{path} is a part of a checkpoint; pass its folder, {path.parent}")
        network, taken = read_released(path, heads, RELEASED_PATCH)
        frames = network.config.adapters[FRAMES]
        assert frames.grid is not None
        size = (frames.grid[0] * RELEASED_PATCH, frames.grid[1] * RELEASED_PATCH)
        codec = ImageLatents(
            size, frames.channels // RELEASED_PATCH**2, RELEASED_PATCH, AutoencoderConfig(), None, 8
        )
        network.to(device).eval()
        return Bundle(network, {FRAMES: codec}, ("image",), {}, path, device, taken=taken)
    checkpoint = resolve_checkpoint(path)
    record, config = read_record(checkpoint), read_config(checkpoint)
    try:
        codecs = {name: codec_from_json(codec) for name, codec in record["codecs"].items()}
        roles, provenance = tuple(map(str, record["roles"])), record["provenance"]
        if not isinstance(provenance, dict):
            raise TypeError("provenance is not a dict")
        attention, labels = record["attention"], record["labels"]
        frame_stride = record.get("frame_stride", 1)  # older runs have none
        if type(frame_stride) is not int or frame_stride < 1:
            raise ValueError("frame_stride is no number of steps")
        schedule = str(record.get("schedule", "dual"))
        if labels is not None and not set(labels) <= set(range(config.num_classes or 0)):
            raise ValueError("labels are not classes of the network")
    except (UserError, *_UNFIT) as error:
        raise _unknown(checkpoint, error) from error
    tensors = load_part(checkpoint, "teacher")
    network = load_module(lambda: Network(config), tensors, checkpoint).to(device).eval()
    network.merge_lora()
    texts = None
    if record["texts"] is not None:
        texts = TextStore.open(run_of(checkpoint))
        if texts.fingerprint != record["texts"]:
            raise UserError(
                f"{checkpoint} was trained with other text embeddings than those in "
                f"{run_of(checkpoint)}; copy the whole run again"
            )
    return Bundle(
        network,
        codecs,
        roles,
        provenance,
        checkpoint,
        device,
        attention,
        labels or None,
        texts,
        frame_stride,
        schedule,
    )


def read_record(checkpoint: Path) -> dict[str, Any]:
    """The `Bundle.record` in a checkpoint. Raises UserError if the checkpoint has none."""
    record = read_manifest(checkpoint)["extra"]
    if "model" in record or "image_model" in record:
        raise UserError(
            f"{checkpoint} was written by an earlier version of selfflow_robotics and can no "
            "longer be loaded; train it again"
        )
    if record.get("kind") == "autoencoder":
        raise UserError(
            f"{checkpoint} is of a run of pretrain/autoencoder.py; pass that run as "
            "model.autoencoder.weights"
        )
    if "network" not in record:
        raise _unknown(checkpoint, KeyError("network"))
    return record


def read_config(checkpoint: Path) -> NetworkConfig:
    """The configuration of a checkpoint's network. Raises UserError as `read_record`."""
    record = read_record(checkpoint)
    try:
        return NetworkConfig.from_json(record["network"])
    except (UserError, *_UNFIT) as error:
        raise _unknown(checkpoint, error) from error


def is_released_file(path: Path) -> bool:
    """Whether the path is a file of released weights, not a run or checkpoint folder."""
    return path.is_file() or (path.suffix in SUFFIXES and not path.is_dir())


def resolve_weights(given: str, download: bool = False) -> Path:
    """The weights file or checkpoint folder that `given` means: a run, a checkpoint, a file, or one
    of `models.released.NAMES`. Raises UserError if there is none."""
    path = Path(given)
    if given in NAMES and not path.exists():
        return fetch_released(download)
    return path if is_released_file(path) else resolve_checkpoint(path)


def weights_hash(path: Path) -> str:
    """SHA-256 of a weights file, or of a checkpoint's manifest, which contains the checksums."""
    path = path / MANIFEST if path.is_dir() else path
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unknown(checkpoint: Path, error: Exception) -> UserError:
    return UserError(f"{checkpoint} does not describe a network this version knows ({error})")
