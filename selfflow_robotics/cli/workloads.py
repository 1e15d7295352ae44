"""Describe what the training commands train, for `plan.machine=...`.

Nothing is read, recorded or downloaded for it. Shapes that only missing data or downloads could
tell are assumed; `Facts.assumed` says which.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.batch import Batch, Slot, Words, step_places
from selfflow_robotics.commands import command
from selfflow_robotics.data.latents import LatentReader
from selfflow_robotics.data.latents_record import row_dtype, sides
from selfflow_robotics.data.shapes import SHAPES
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.base import FrameCodec, slot_of
from selfflow_robotics.modalities.latents import (
    ImageLatents,
    LatentsBehindPixels,
    VideoLatents,
    latents_per_token,
)
from selfflow_robotics.models.adapters import PIXEL_CHANNELS
from selfflow_robotics.models.lora import LoraConfig
from selfflow_robotics.models.network import NetworkConfig
from selfflow_robotics.models.presets import ImageConfig, RobotConfig, image_config
from selfflow_robotics.models.text import TextConfig
from selfflow_robotics.objective.loss import ConditioningConfig
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.planning.trace import RoleWork, Workload
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.training.optimizer import OptimizerConfig

# (channels, px per latent) of autoencoders whose files may be missing.
AUTOENCODERS = {"sd_vae": (4, 8), "rae": (768, 16), "flux2": (128, 16), "wan": (48, 16)}
# Channels of frozen text encoders; others count as T5-base, whose size matters little.
TEXT_CHANNELS = {"wordllama": 256, "hf:google/flan-t5-base": 768}
ENCODER_CHANNELS = 768  # of REPA's default encoder, dinov2-b
SD_VAE_FLOPS = 272.7e9 / 256**2  # of the encoder, per pixel
IMAGENET_IMAGES, IMAGENET_CLASSES = 1_281_167, 1000
INSTRUCTION = "pick coke can"


@dataclass
class Facts:
    """What is known about the data, and what had to be assumed."""

    samples: int | None = None  # number of samples
    sample_bytes: int | None = None  # bytes on disk that one sample reads
    data_bytes: int = 0  # of the data's folders; 0: unknown
    assumed: list[str] = field(default_factory=list)


def image_workload(
    model: ImageConfig,
    objective: ObjectiveConfig,
    optimizer: OptimizerConfig,
    batch: int,
    data: str | None,
    shapes: tuple[int, int],
    conditioning: ConditioningConfig,
    text: TextEncoderConfig | None,
) -> tuple[Workload, Facts]:
    """What pretrain/images.py trains on latents in the folder `data`; None: `shapes`, their number
    and size in px. `text`: the encoder of captions; None: the images have labels."""
    facts = Facts()
    if data is None:
        count, size = shapes
        channels, classes = PIXEL_CHANNELS, len(SHAPES)
    elif Path(data).is_dir():
        reader = LatentReader(data)
        count, size = len(reader), reader.latent_size
        channels, classes = reader.channels, reader.num_classes
    else:
        # A patch of one latent is for latents of 16 px, a larger one for SD-VAE's of 8 px.
        kind = ("flux2" if text else "rae") if model.patch == 1 else "sd_vae"
        channels, down = AUTOENCODERS[kind]
        count, size, classes = IMAGENET_IMAGES, 256 // down, IMAGENET_CLASSES
        if size % model.patch:  # latents of none of these autoencoders
            raise UserError(
                f"{data} is missing, and the size of its latents is unknown; make it first: "
                f"{command('pretrain/encode.py')} --output {data} ..."
            )
        facts.assumed.append(
            f"{data} is not there: planned for {kind} latents {channels} x {size} x {size} of "
            f"{count} images, as many as in ImageNet"
        )
    row, size = row_dtype(channels, size).itemsize, sides(size)
    facts.samples, facts.sample_bytes = count, row
    reads = None if text is None else text_config(text, model.byte_text(), facts)
    network = image_config(
        model.transformer,
        size,
        channels,
        model.patch,
        classes if reads is None else None,
        learn_sigma=reads is None,
        text=reads,
        prediction=model.prediction,
    )
    codec = ImageLatents(size, channels, model.patch, AutoencoderConfig("pixel"), None, 1)

    def samples(number: int) -> Batch:
        tokens = torch.zeros(number, codec.tokens_per_step, codec.channels)
        slots = {"first_frame": slot_of("first_frame", codec, tokens)}
        if reads is None or text is None:
            return Batch(slots, labels=torch.zeros(number, dtype=torch.long))
        return Batch(slots, words_of(reads, text.tokens, number))

    role = RoleWork("image", 1.0, batch, objective, samples)
    channels = codec.channels
    return _workload(network, [role], channels, conditioning, optimizer, facts), facts


def robot_workload(
    model: RobotConfig,
    text: TextEncoderConfig,
    latents: str | tuple[str, ...] | None,
    roles: Mapping[str, float],
    settings: Callable[[str], tuple[int, ObjectiveConfig]],
    conditioning: ConditioningConfig,
    optimizer: OptimizerConfig,
    loss_weights: dict[str, float] | None = None,
    later_frames: int | None = None,
    lora: LoraConfig | None = None,
) -> tuple[Workload, Facts]:
    """What finetune/rt1.py and pretrain/run.py train: the weights of the `roles`; `settings` gives
    each role's batch size and objective. `later_frames` of a sample; None: the model's."""
    facts = Facts()
    codec = _codec(model, facts)
    reads = text_config(text, TextConfig("bytes", model.text_tokens, model.text_bytes), facts)
    frames = model.later_frames if later_frames is None else later_frames
    flops, encode = (0.0, None) if latents is not None else _encoding(model, codec, facts)
    works = []
    for role in (role for role, weight in roles.items() if weight > 0):
        batch, objective = settings(role)
        share = roles[role] / sum(roles.values())
        samples = _robot_samples(model, codec, reads, text.tokens, role, frames)
        read = 1 + frames * ("later_frames" in ROLES[role])
        works.append(RoleWork(role, share, batch, objective, samples, read, flops, encode))
    network = model.network(codec, reads, lora=lora)
    channels = codec.channels
    return _workload(network, works, channels, conditioning, optimizer, facts, loss_weights), facts


def _workload(
    network: NetworkConfig,
    roles: Sequence[RoleWork],
    channels: int,
    conditioning: ConditioningConfig,
    optimizer: OptimizerConfig,
    facts: Facts,
    loss_weights: dict[str, float] | None = None,
) -> Workload:
    """`channels` of the tokens of frames."""
    encoder = None
    if any(role.objective.target == "encoder" and role.objective.gamma > 0 for role in roles):
        facts.assumed.append(
            f"the frozen encoder has {ENCODER_CHANNELS} channels; its own time and memory are not "
            "counted"
        )
        network = replace(network, feature_channels=ENCODER_CHANNELS)
        encoder = _zeros
    for role in roles:  # the heads of their objectives
        if role.objective.target == "latents" and role.objective.gamma > 0:
            network = replace(network, feature_channels=channels)
        if role.objective.auxiliary_layer is not None:
            network = replace(network, auxiliary_layer=role.objective.auxiliary_layer)
    return Workload(network, tuple(roles), conditioning, optimizer, loss_weights, encoder)


def _zeros(x: dict[str, Tensor]) -> Tensor:
    """Features of a frozen encoder, for the shapes."""
    tokens = torch.cat(list(x.values()), dim=1)
    return torch.zeros(*tokens.shape[:2], ENCODER_CHANNELS)


def _codec(model: RobotConfig, facts: Facts) -> FrameCodec:
    """The codec of frames; without weights, if they would have to be downloaded."""
    kind = model.autoencoder.kind
    if model.frames == "pixels" or kind not in AUTOENCODERS:
        return model.codec()
    channels, down = AUTOENCODERS[kind]
    if model.autoencoder.weights is not None:
        facts.assumed.append(f"{kind} has {channels} channels and latents of {down} px")
    made: Any = LatentsBehindPixels if model.frames == "mixed" else ImageLatents
    if kind == "wan":
        made = VideoLatents
    size = tuple(side // down for side in model.image_size)
    patch = latents_per_token(model.patch, down)
    return made(size, channels, patch, model.autoencoder, None, down)


def _encoding(
    model: RobotConfig, codec: Any, facts: Facts
) -> tuple[float, Callable[[int], Any] | None]:
    """FLOPs to encode a frame during training, and a call that encodes so many; None: it needs
    weights that may be missing."""
    if model.frames == "pixels":
        return 0.0, None
    if model.autoencoder.kind == "sd_vae":
        return SD_VAE_FLOPS * prod(model.image_size), None
    if codec.autoencoder is None:
        facts.assumed.append(
            f"frames encoded ahead (pretrain/encode.py): {model.autoencoder.kind}'s own time is "
            "not counted"
        )
        return 0.0, None

    def encode(frames: int) -> Any:
        raw = torch.zeros(1, frames, *model.image_size, PIXEL_CHANNELS, dtype=torch.uint8)
        return codec.encode(raw), codec.view(raw)

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encode(1)
    return counter.get_total_flops(), encode


def _robot_samples(
    model: RobotConfig, codec: Any, text: TextConfig, text_tokens: int, role: str, frames: int
) -> Callable[[int], Batch]:
    """Batches of zeros, with the slots and words of `role`."""
    steps = {"first_frame": 1, "later_frames": frames // codec.stride}

    def samples(number: int) -> Batch:
        slots = {}
        for slot in ROLES[role]:
            if slot == "actions":
                actions = torch.zeros(number, model.action_horizon, model.action_dim)
                slots[slot] = Slot(actions, step_places(model.action_horizon))
                continue
            count = steps[slot] * codec.tokens_per_step
            view = None
            if isinstance(codec, LatentsBehindPixels):
                view = torch.zeros(number, count, PIXEL_CHANNELS * codec.view_patch**2)
            valid = None
            if slot == "later_frames":
                valid = torch.ones(number, count, dtype=torch.bool)
            tokens = torch.zeros(number, count, codec.channels)
            slots[slot] = slot_of(slot, codec, tokens, valid, view)
        return Batch(slots, words_of(text, text_tokens, number))

    return samples


def text_config(text: TextEncoderConfig, own: TextConfig, facts: Facts) -> TextConfig:
    """How the network reads words; `own`: with its own encoder."""
    if text.encoder == "bytes":
        return own
    channels = TEXT_CHANNELS.get(text.encoder)
    if channels is None:
        channels = TEXT_CHANNELS["hf:google/flan-t5-base"]
        facts.assumed.append(f"{text.encoder} has {channels} channels")
    return TextConfig("embeddings", channels=channels)


def words_of(text: TextConfig, tokens: int, number: int) -> Words:
    """Words of so many samples; `tokens` per text of a frozen encoder."""
    if text.kind == "bytes":
        return [INSTRUCTION] * number
    return torch.zeros(number, tokens, text.channels)
