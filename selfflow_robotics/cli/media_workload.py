"""Describe what pretrain/media.py trains, for `plan.machine=...`; see `cli.workloads`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.batch import Batch
from selfflow_robotics.cli.media_input import (
    ModalityConfig,
    media_codecs,
    media_places,
    open_readers,
    role_weights,
    sizes_of,
    sound_codec,
)
from selfflow_robotics.cli.workloads import AUTOENCODERS, Facts, text_config, words_of
from selfflow_robotics.data.latents import LatentReader
from selfflow_robotics.data.media_latents import MediaReader
from selfflow_robotics.modalities.base import FRAMES, PICTURES, SOUND, slot_of
from selfflow_robotics.modalities.latents import ImageLatents, VideoLatents
from selfflow_robotics.modalities.sound import SoundLatents
from selfflow_robotics.models.presets import MediaConfig
from selfflow_robotics.objective.loss import ConditioningConfig
from selfflow_robotics.objective.roles import ROLES, modality_of
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.planning.trace import RoleWork, Workload
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.training.optimizer import OptimizerConfig

# The paper's sizes, for data that are not there: images of 256 px; 45 frames of 192 x 336 px, which
# become 12 latent frames; 10 s of sound, 25 latents of 64 channels per second.
IMAGE_PX, CLIP_PX, CLIP_STEPS, SOUND_LATENTS = 256, (192, 336), 12, 250
FPS, RATE, DOWNSAMPLE, SOUND_CHANNELS = 4.8, 16_000, 640, 64


def media_workload(
    model: MediaConfig,
    text: TextEncoderConfig,
    modalities: Mapping[str, ModalityConfig],
    objective: ObjectiveConfig,
    conditioning: ConditioningConfig,
    optimizer: OptimizerConfig,
) -> tuple[Workload, Facts]:
    """What pretrain/media.py trains on the data of these modalities."""
    facts = Facts()
    readers = _readers(modalities)
    codecs = media_codecs(readers, model)
    steps = {name: sizes_of(reader) for name, reader in readers.items()}
    for name, modality in modalities.items():
        if name not in readers:
            _assume(name, modality, model, codecs, steps, facts)
    reads = text_config(text, model.byte_text(), facts)
    network = model.network(codecs, media_places(steps, codecs), reads)

    def samples(role: str) -> Callable[[int], Batch]:
        modality = modality_of(role)
        size = steps[modality]

        def batch(number: int) -> Batch:
            slots = {}
            for slot in ROLES[role]:
                codec = codecs[network.slots[slot]]
                if slot == "sound":
                    codec = sound_codec(codecs, role)
                count = {
                    "picture": 1,
                    "first_frame": 1,
                    "later_frames": size.get("steps", 1) - 1,
                    "sound": size.get("sound_steps", 0),
                }[slot]
                tokens = torch.zeros(number, count * codec.tokens_per_step, codec.channels)
                slots[slot] = slot_of(slot, codec, tokens)
            return Batch(slots, words_of(reads, text.tokens, number))

        return batch

    weights = {role: weight for role, weight in role_weights(modalities).items() if weight > 0}
    works = tuple(
        RoleWork(
            role,
            weight / sum(weights.values()),
            modalities[modality_of(role)].batch_size,
            modalities[modality_of(role)].objective(objective),
            samples(role),
        )
        for role, weight in weights.items()
    )
    if objective.auxiliary_layer is not None:
        network = replace(network, auxiliary_layer=objective.auxiliary_layer)
    return Workload(network, works, conditioning, optimizer), facts


def _readers(modalities: Mapping[str, ModalityConfig]) -> dict[str, LatentReader | MediaReader]:
    """Of the data that are there."""
    return open_readers(
        {
            name: modality
            for name, modality in modalities.items()
            if modality.data is not None and Path(modality.data).expanduser().is_dir()
        }
    )


def _assume(
    name: str,
    modality: ModalityConfig,
    model: MediaConfig,
    codecs: dict[str, Any],
    steps: dict[str, dict[str, Any]],
    facts: Facts,
) -> None:
    """Add the paper's sizes of a modality whose data are missing."""
    steps[name] = {}
    told = []
    if name == "images":
        channels, down = AUTOENCODERS["flux2"]
        side = IMAGE_PX // down
        codecs[PICTURES] = ImageLatents(
            (side, side), channels, model.image_patch, AutoencoderConfig("flux2"), None, down
        )
        told.append(f"flux2 latents {channels} x {side} x {side}")
    if name in ("clips", "films"):
        channels, down = AUTOENCODERS["wan"]
        size = (CLIP_PX[0] // down, CLIP_PX[1] // down)
        wan = AutoencoderConfig("wan")
        codecs.setdefault(FRAMES, VideoLatents(size, channels, model.clip_patch, wan, None, down))
        steps[name]["steps"] = CLIP_STEPS
        told.append(f"{CLIP_STEPS} wan latent frames {channels} x {size[0]} x {size[1]}")
    if name in ("sounds", "films"):
        beside = FPS / codecs[FRAMES].stride if name == "films" else None
        known = codecs.get(SOUND)
        if known is None:
            codecs[SOUND] = SoundLatents(
                SOUND_CHANNELS, RATE, DOWNSAMPLE, AutoencoderConfig("spectrogram"), None, beside
            )
        elif beside is not None:
            codecs[SOUND] = replace(known, frame_rate=beside)
        steps[name]["sound_steps"] = SOUND_LATENTS
        told.append(f"{SOUND_LATENTS} sound latents of {codecs[SOUND].channels} channels")
    facts.assumed.append(f"{modality.data} is not there: planned for {' and '.join(told)}")
