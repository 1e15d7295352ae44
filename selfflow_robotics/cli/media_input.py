"""Open the inputs of a network of several modalities: captioned latents of images, clips, sounds,
and clips with sound.

Each step has a batch of one modality, drawn by its weight, in one of its roles
(`objective.roles.MEDIA_ROLES`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfflow_robotics.batch import Batch, Words
from selfflow_robotics.cli.job import Job
from selfflow_robotics.data.captions import draw_captions
from selfflow_robotics.data.latents import LatentReader, sample_posterior
from selfflow_robotics.data.media_latents import MediaReader
from selfflow_robotics.data.transfer import to_device
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.flow.timesteps import TimestepConfig
from selfflow_robotics.inference.generate_media import codecs_for
from selfflow_robotics.modalities.base import FRAMES, PICTURES, SOUND, slot_of
from selfflow_robotics.models.presets import MediaConfig
from selfflow_robotics.models.text import TextConfig, check_texts
from selfflow_robotics.objective.roles import MAX_WEIGHT, MEDIA_ROLES, RoleSchedule, modality_of
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.text.store import TextStore
from selfflow_robotics.training.distributed import Ranks

# What a sample of each modality has.
PARTS = {"clips": ("frames",), "sounds": ("sound",), "films": ("frames", "sound")}
Reader = LatentReader | MediaReader


@dataclass(frozen=True)
class ModalityConfig:
    """One modality: its data, how often it is drawn, and its own settings of the objective."""

    data: str | None = None  # a folder of latents; None: the run has no such modality
    weight: float = 1.0  # share of the batches, relative to the others
    batch_size: int = 16
    loss_weight: float = 1.0  # factor of the batch's loss
    mask_ratio: float = 0.25  # R_M, of objectives that have a mask
    timesteps: TimestepConfig = field(default_factory=TimestepConfig)
    roles: dict[str, float] = field(default_factory=dict)  # shares of this modality's batches
    sound_weight: float = 1.0  # of the sound beside frames, in the loss

    def check(self, name: str) -> None:
        """Raise UserError for numbers out of range and roles of other modalities."""
        check_least(self, 1, "batch_size", prefix=f"{name}.")
        for key in ("weight", "loss_weight", "sound_weight"):
            value = getattr(self, key)
            if not 0 < value <= MAX_WEIGHT:
                raise UserError(
                    f"{name}.{key} must be above 0 and at most {MAX_WEIGHT:g}, got {value}"
                )
        if not 0 <= self.mask_ratio <= 0.5:
            raise UserError(f"{name}.mask_ratio must be in [0, 0.5], got {self.mask_ratio}")
        for role, share in self.roles.items():
            if role not in MEDIA_ROLES[name]:
                raise UserError(
                    f"{name} have the roles {', '.join(MEDIA_ROLES[name])}, not '{role}'"
                )
            if not 0 <= share <= MAX_WEIGHT:
                raise UserError(
                    f"{name}.roles.{role} must be from 0 to {MAX_WEIGHT:g}, got {share}"
                )
        if not any(self.roles.values()):
            raise UserError(f"{name} have no role; set {name}.roles.{MEDIA_ROLES[name][0]}=1")

    def objective(self, common: ObjectiveConfig) -> ObjectiveConfig:
        """The objective of this modality's batches."""
        ratio = self.mask_ratio if common.mask_ratio > 0 else 0.0
        return replace(common, mask_ratio=ratio, timesteps=self.timesteps)


def role_weights(modalities: Mapping[str, ModalityConfig]) -> dict[str, float]:
    """The share of the batches of each role, relative to the others."""
    weights = {}
    for modality in modalities.values():
        total = sum(modality.roles.values())
        for role, share in modality.roles.items():
            weights[role] = modality.weight * share / total
    return weights


def slot_weights(role: Mapping[str, str], steps: int, sound: float) -> dict[str, float]:
    """Weights of the slots in the loss: all (latent) frames alike, `sound` for the sound beside
    all of them.

    steps: frames of a sample.
    """
    frames = {"first_frame": 1 / max(1, steps), "later_frames": 1 - 1 / max(1, steps)}
    noised = {slot: frames[slot] for slot in frames if role.get(slot) == "noised"}
    total = sum(noised.values())
    weights = {slot: weight / total for slot, weight in noised.items()}
    if role.get("sound") == "noised":
        weights["sound"] = sound if noised else 1.0
    return weights


@dataclass(frozen=True)
class MediaRows:
    """A batch as it is read: the parts of its samples, and their words."""

    role: str
    parts: dict[str, np.ndarray]  # float16 [B, ...]: mean and std of images, frames, sound
    words: Words


@dataclass(frozen=True)
class MediaInput:
    """What a network of several modalities reads, and how."""

    readers: dict[str, Reader]
    sizes: dict[str, dict[str, Any]]  # of each modality's samples, for generation
    codecs: dict[str, Any]  # by adapter, without their autoencoders
    places: dict[str, tuple[int, int, int]]  # how many (t, h, w) the tokens of each codec have
    text: TextConfig
    texts: TextStore | None  # the frozen encoder of captions; None: the network reads bytes

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of what a run depends on, see `cli.runs.continue_run`."""
        found = {
            f"{name} {key}": value
            for name, reader in self.readers.items()
            for key, value in reader.fingerprints.items()
        }
        # The same files may have been encoded as other clips and sounds.
        found |= {f"{name} size": size_text(reader) for name, reader in self.readers.items()}
        return found | ({} if self.texts is None else {"text": self.texts.fingerprint})

    def steps(self, modality: str) -> int:
        """(Latent) frames of a sample; 0 if it has none."""
        return self.sizes[modality].get("steps", 0)

    def read(
        self,
        role: str,
        rows: Sequence[int],
        ranks: Ranks,
        seed: int,
        step: int,
    ) -> MediaRows:
        """This process's part of the batch of these rows, with a caption for each, drawn from
        (seed, step)."""
        reader = self.readers[modality_of(role)]
        places = ranks.share(range(len(rows)))
        mine = [rows[place] for place in places]
        if isinstance(reader, MediaReader):
            parts = reader.read(mine)
        else:
            mean, std, _ = reader.read(mine)
            parts = {"mean": mean, "std": std}
        words = draw_captions(reader.captions(mine), places, len(rows), seed, step)
        return MediaRows(role, parts, words if self.texts is None else self.texts.embed(words))

    def tokens(self, rows: MediaRows, device: torch.device, generator: torch.Generator) -> Batch:
        """A batch as slots; images are sampled from their posterior."""
        parts = {name: to_device(part, device) for name, part in rows.parts.items()}
        slots = {}
        if "mean" in parts:
            codec = self.codecs[PICTURES]
            latents = sample_posterior(parts["mean"], parts["std"], generator)[:, None]
            slots["picture"] = slot_of("picture", codec, codec.to_tokens(latents))
        if "frames" in parts:
            codec = self.codecs[FRAMES]
            for slot, frames in (
                ("first_frame", parts["frames"][:, :1]), ("later_frames", parts["frames"][:, 1:]),
            ):  # fmt: skip
                slots[slot] = slot_of(slot, codec, codec.to_tokens(frames.float()))
        if "sound" in parts:
            codec = sound_codec(self.codecs, rows.role)
            slots["sound"] = slot_of("sound", codec, parts["sound"].float())
        words, no_words = rows.words, None
        if isinstance(words, Tensor) and self.texts is not None:
            words, no_words = words.to(device), self.texts.no_words.to(device)
        return Batch(slots, words, no_words=no_words)


class MediaSchedule:
    """Which role each step plays, and with which rows; a function of (seed, step)."""

    def __init__(
        self, modalities: Mapping[str, ModalityConfig], readers: Mapping[str, Reader], seed: int
    ) -> None:
        """Raises UserError for batches that are larger than a hundred times the data."""
        weights = role_weights(modalities)
        self._schedule = RoleSchedule(weights, seed)
        self._samplers = {}
        for role in (role for role, weight in weights.items() if weight > 0):
            modality = modality_of(role)
            size = modalities[modality].batch_size
            self._samplers[role] = readers[modality].sampler(size, seed, role)

    def at(self, step: int) -> tuple[str, list[int]]:
        role, turn = self._schedule.at(step)
        return role, self._samplers[role].batch(turn)


def sizes_of(reader: Reader) -> dict[str, Any]:
    """The (latent) frames ("steps") and "fps" of clips, the latents of sounds ("sound_steps")."""
    told: dict[str, Any] = {}
    if isinstance(reader, MediaReader) and "frames" in reader.parts:
        told |= {"steps": reader.steps("frames"), "fps": reader.fps}
    if isinstance(reader, MediaReader) and "sound" in reader.parts:
        told["sound_steps"] = reader.steps("sound")
    return told


def size_text(reader: Reader) -> str:
    """The shapes of the latents and the frames per second, for comparison."""
    if isinstance(reader, LatentReader):
        return json.dumps([reader.latent_size])
    shapes = [part["shape"] for part in reader.parts.values()]
    return json.dumps([shapes, sizes_of(reader).get("fps")])


def sound_codec(codecs: Mapping[str, Any], role: str) -> Any:
    """The codec of sounds; alone, their places are not those beside frames."""
    return codecs_for(codecs, role)[SOUND]


def open_readers(modalities: Mapping[str, ModalityConfig]) -> dict[str, Reader]:
    """The latents of each modality. Raises UserError for missing ones, for latents without captions
    or of other parts, and for clips of one frame."""
    readers: dict[str, Reader] = {}
    for name, modality in modalities.items():
        assert modality.data is not None
        if name == "images":
            readers[name] = reader = LatentReader(modality.data)
            if not reader.captioned:
                raise UserError(
                    f"{reader.folder} has no captions; encode the images with captions=true"
                )
        else:
            readers[name] = reader = MediaReader(modality.data, PARTS[name])
            if "frames" in reader.parts and reader.steps("frames") < 2:
                raise UserError(
                    f"{reader.folder} has {name} of one (latent) frame; encode them with more "
                    "clip.frames"
                )
    return readers


def open_media_input(
    readers: dict[str, Reader], model: MediaConfig, text: TextEncoderConfig, job: Job
) -> MediaInput:
    """Raises UserError for latents that do not divide into patches; for clips, sounds and films
    whose latents do not mean the same; for captions that are too long, and a text encoder that is
    missing."""
    codecs = media_codecs(readers, model)
    sizes = {name: sizes_of(reader) for name, reader in readers.items()}
    reads, store = model.byte_text(), None
    captions = set().union(*(reader.all_captions() for reader in readers.values()))
    if text.encoder == "bytes":
        check_texts(captions, model.text_bytes)
    else:
        store = TextStore.make(text, (), job.run)
        store.check(captions)
        reads = TextConfig("embeddings", channels=store.channels)
    return MediaInput(readers, sizes, codecs, media_places(sizes, codecs), reads, store)


def media_codecs(readers: Mapping[str, Reader], model: MediaConfig) -> dict[str, Any]:
    """The codec of each kind of token."""
    codecs: dict[str, Any] = {}
    if isinstance(images := readers.get("images"), LatentReader):
        codecs[PICTURES] = images.codec(model.image_patch)
    media = {n: r for n, r in readers.items() if isinstance(r, MediaReader)}
    frames = {n: r.frame_codec(model.clip_patch) for n, r in media.items() if "frames" in r.parts}
    if frames:
        codecs[FRAMES] = _the_same(frames)
    sounds = {n: r.sound_codec(None) for n, r in media.items() if "sound" in r.parts}
    if sounds:
        codecs[SOUND] = _the_same(sounds)
    if "films" in media:  # the rate of the (latent) frames beside sounds
        rate = media["films"].fps / codecs[FRAMES].stride
        codecs[SOUND] = replace(codecs[SOUND], frame_rate=rate)
    return codecs


def _the_same(codecs: Mapping[str, Any]) -> Any:
    """The codec of all of these modalities. Raises UserError if they differ."""
    (first, codec), *others = codecs.items()
    for name, other in others:
        if other != codec:
            raise UserError(
                f"{first}.data and {name}.data have latents of another autoencoder or size; encode "
                "both alike"
            )
    return codec


def media_places(
    sizes: Mapping[str, Mapping[str, Any]], codecs: Mapping[str, Any]
) -> dict[str, tuple[int, int, int]]:
    """How many places (t, h, w) the tokens of each codec have, in the longest samples.

    sizes: those of each modality, as `MediaInput.sizes`.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in codecs}
    for name, size in sizes.items():
        if name == "images":
            found[PICTURES].append(codecs[PICTURES].places(1))
        if "steps" in size:
            found[FRAMES].append(codecs[FRAMES].places(size["steps"]))
        if "sound_steps" in size:
            codec = sound_codec(codecs, "sound" if name == "sounds" else "film")
            found[SOUND].append(codec.places(size["sound_steps"]))
    return {name: _extent(places) for name, places in found.items()}


def _extent(places: Iterable[Tensor]) -> tuple[int, int, int]:
    t, h, w = (torch.cat(list(places)).amax(0) + 1).tolist()
    return t, h, w
