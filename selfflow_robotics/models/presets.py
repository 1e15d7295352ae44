"""The networks that the commands train, as configurations of the one `Network`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.modalities.actions import Actions
from selfflow_robotics.modalities.base import ACTIONS, FRAMES, PICTURES, SOUND, FrameCodec
from selfflow_robotics.modalities.latents import ImageLatents, LatentsBehindPixels, VideoLatents
from selfflow_robotics.modalities.pixels import PixelPatches
from selfflow_robotics.models.adapters import AdapterConfig
from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.lora import LoraConfig
from selfflow_robotics.models.network_config import BackboneConfig, NetworkConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.models.text import TextConfig

# The sizes of DiT and SiT; the paper uses XL (675 M).
SIZES = {
    "S": SiTConfig(width=384, depth=12, heads=6),
    "B": SiTConfig(width=768, depth=12, heads=12),
    "L": SiTConfig(width=1024, depth=24, heads=16),
    "XL": SiTConfig(width=1152, depth=28, heads=16),
}
# The released weights embed the distance from noise, without DiT's factor of 1000.
RELEASED_TIME: dict[str, Any] = {"timestep_scale": 1.0, "timestep_origin": 1.0}

MOST_PLACES = 100


def image_config(
    backbone: BackboneConfig,
    latent_size: int | tuple[int, int] = 32,
    channels: int = 4,
    patch: int = 2,
    num_classes: int | None = 1000,
    learn_sigma: bool = True,
    feature_channels: int | None = None,
    auxiliary_layer: int | None = None,
    text: TextConfig | None = None,
    prediction: Literal["velocity", "data"] = "velocity",
) -> NetworkConfig:
    """The network of Self-Flow's image experiments: latent patches of one image, and its label or
    caption.

    Args:
        backbone: configuration of the transformer.
        latent_size: side of the latents, or (height, width).
        channels: channels of the latents.
        patch: patch size, in latents.
        num_classes, feature_channels, auxiliary_layer, text: as in `NetworkConfig`.
        learn_sigma: as in `AdapterConfig`; the released weights have it.
        prediction: what the output represents (`flow.path.Prediction`).
    """
    height, width = (latent_size,) * 2 if isinstance(latent_size, int) else latent_size
    if min(height, width, channels, patch) < 1 or height % patch or width % patch:
        raise UserError(
            "latent_size, channels and patch must be at least 1 and latent_size divisible by "
            f"patch, got {latent_size}, {channels} and {patch}"
        )
    grid = (height // patch, width // patch)
    return NetworkConfig(
        backbone=backbone,
        adapters={FRAMES: AdapterConfig(channels * patch**2, grid=grid, learn_sigma=learn_sigma)},
        slots={"first_frame": FRAMES},
        prediction={"first_frame": prediction},
        text=text,
        num_classes=num_classes,
        feature_channels=feature_channels,
        auxiliary_layer=auxiliary_layer,
    )


@dataclass(frozen=True)
class ImageConfig:
    """Network settings of pretrain/images.py; the others follow from the latents."""

    backbone: Literal["sit", "flux"] = "sit"
    sit: SiTConfig = field(default_factory=lambda: SiTConfig(**RELEASED_TIME))
    flux: FluxConfig = field(default_factory=FluxConfig)
    patch: int = 2  # patch size, in latents
    prediction: Literal["velocity", "data"] = "velocity"  # what the output represents
    text_tokens: int = 8  # of a caption that the network reads as bytes
    text_bytes: int = 127  # UTF-8 bytes of the longest caption

    def __post_init__(self) -> None:
        check_least(self, 1, "patch", prefix="model.")
        self.byte_text()  # raises if the numbers are out of range

    @property
    def transformer(self) -> BackboneConfig:
        """The backbone that is chosen."""
        return self.flux if self.backbone == "flux" else self.sit

    def byte_text(self) -> TextConfig:
        """How the network reads captions as bytes."""
        return TextConfig("bytes", self.text_tokens, self.text_bytes)


Prediction = Literal["velocity", "data"]


@dataclass(frozen=True)
class MediaConfig:
    """Network settings of pretrain/media.py; the others follow from the latents."""

    backbone: Literal["sit", "flux"] = "sit"
    sit: SiTConfig = field(default_factory=SiTConfig)
    flux: FluxConfig = field(default_factory=FluxConfig)
    image_patch: int = 2  # patch size, in latents
    clip_patch: int = 2
    image_prediction: Prediction = "velocity"  # what the output represents
    clip_prediction: Prediction = "velocity"
    sound_prediction: Prediction = "velocity"
    text_tokens: int = 8  # of a caption that the network reads as bytes
    text_bytes: int = 127  # UTF-8 bytes of the longest caption

    def __post_init__(self) -> None:
        check_least(self, 1, "image_patch", "clip_patch", prefix="model.")
        self.byte_text()  # raises if the numbers are out of range

    @property
    def transformer(self) -> BackboneConfig:
        """The backbone that is chosen."""
        return self.flux if self.backbone == "flux" else self.sit

    def byte_text(self) -> TextConfig:
        """How the network reads captions as bytes."""
        return TextConfig("bytes", self.text_tokens, self.text_bytes)

    def network(
        self,
        codecs: Mapping[str, Any],
        places: Mapping[str, tuple[int, int, int]],
        text: TextConfig | None = None,
        auxiliary_layer: int | None = None,
        feature_channels: int | None = None,
    ) -> NetworkConfig:
        """The network's configuration: one pair of input and output layers for each codec, all else
        shared.

        Args:
            codecs: those of `PICTURES`, `FRAMES` and `SOUND` that there are.
            places: how many (t, h, w) there are for the tokens of each codec.
            text: None: bytes.
            auxiliary_layer, feature_channels: as in `NetworkConfig`.
        """
        slots = {slot: name for slot, name in MEDIA_SLOTS.items() if name in codecs}
        predictions: dict[str, Prediction] = {
            PICTURES: self.image_prediction,
            FRAMES: self.clip_prediction,
            SOUND: self.sound_prediction,
        }
        return NetworkConfig(
            backbone=self.transformer,
            adapters={
                name: AdapterConfig(codec.channels, grid=(h, w), steps=t)
                for name, codec in codecs.items()
                for t, h, w in [places[name]]
            },
            slots=slots,
            prediction={slot: predictions[name] for slot, name in slots.items()},
            text=text or self.byte_text(),
            auxiliary_layer=auxiliary_layer,
            feature_channels=feature_channels,
        )


MEDIA_SLOTS = {
    "first_frame": FRAMES, "later_frames": FRAMES, "picture": PICTURES, "sound": SOUND,
}  # fmt: skip


@dataclass(frozen=True)
class RobotConfig:
    """The network for world model and policy, which reads frames, actions and text."""

    sit: SiTConfig = field(default_factory=SiTConfig)
    image_size: tuple[int, int] = (64, 80)  # (height, width) px
    patch: int = 16  # patch size in px
    later_frames: int = 6  # most frames after the first
    frame_stride: int = 1  # control steps between frames; actions are those of every control step
    action_horizon: int = 6
    action_dim: int = 7
    text_tokens: int = 2
    text_bytes: int = 127  # UTF-8 bytes of the longest instruction; RT-1's longest has 68
    backbone: Literal["sit", "flux"] = "sit"
    flux: FluxConfig = field(default_factory=FluxConfig)
    # pixels: pixel patches; latents: an autoencoder's latents; mixed: latents, with pixels of
    # clean frames as additional input.
    frames: Literal["pixels", "latents", "mixed"] = "pixels"
    autoencoder: AutoencoderConfig = field(default_factory=lambda: AutoencoderConfig("small"))

    def __post_init__(self) -> None:
        if self.patch < 2 or self.patch & (self.patch - 1):
            raise UserError(f"model.patch must be a power of two, at least 2, got {self.patch}")
        pixels = PixelPatches(self.image_size, self.patch)  # raises if sizes do not divide
        if min(self.later_frames, self.action_horizon, self.action_dim, self.text_tokens) < 1:
            raise UserError(
                "model.later_frames, action_horizon, action_dim and text_tokens must be at least 1"
            )
        check_least(self, 1, "frame_stride", prefix="model.")
        # They share one sequence of tokens.
        if max(self.later_frames, self.action_horizon, self.text_tokens) > MOST_PLACES:
            raise UserError(
                "model.later_frames, action_horizon and text_tokens must be at most "
                f"{MOST_PLACES}, got {self.later_frames}, {self.action_horizon}, {self.text_tokens}"
            )
        if self.frames == "mixed" and self.autoencoder.kind == "wan":
            raise UserError("model.frames=mixed needs an image autoencoder, not wan (video)")
        self.network(pixels)  # raises if the network is invalid

    @property
    def transformer(self) -> BackboneConfig:
        """The backbone that is chosen."""
        return self.flux if self.backbone == "flux" else self.sit

    def codec(self, device: torch.device | str = "cpu") -> FrameCodec:
        """The codec for frames, with its autoencoder on `device`.

        Raises UserError if the autoencoder is missing or sizes do not divide.
        """
        if self.frames == "pixels":
            return PixelPatches(self.image_size, self.patch)
        kind = LatentsBehindPixels if self.frames == "mixed" else ImageLatents
        if self.autoencoder.kind == "wan":
            kind = VideoLatents
        return kind.create(self.autoencoder, self.image_size, self.patch, device)

    def network(
        self,
        frames: FrameCodec,
        text: TextConfig | None = None,
        feature_channels: int | None = None,
        auxiliary_layer: int | None = None,
        lora: LoraConfig | None = None,
    ) -> NetworkConfig:
        """The network's configuration for the tokens of the codec `frames`.

        `text` None: bytes. `feature_channels`, `auxiliary_layer` and `lora` as in `NetworkConfig`.
        """
        if self.later_frames % frames.stride:
            raise UserError(
                f"model.later_frames must be a multiple of {frames.stride} for this video "
                f"autoencoder, got {self.later_frames}"
            )
        steps = 1 + self.later_frames // frames.stride
        adapter = AdapterConfig(
            frames.channels,
            "convolutional" if isinstance(frames, PixelPatches) else "linear",
            frames.grid,
            steps,
            frames.view_patch if isinstance(frames, LatentsBehindPixels) else 0,
        )
        prediction = frames.prediction
        return NetworkConfig(
            backbone=self.transformer,
            adapters={
                FRAMES: adapter,
                ACTIONS: AdapterConfig(self.action_dim, steps=self.action_horizon),
            },
            slots={"first_frame": FRAMES, "later_frames": FRAMES, "actions": ACTIONS},
            prediction={
                "first_frame": prediction,
                "later_frames": prediction,
                "actions": Actions.prediction,
            },
            # Most of a frame stays the same.
            changes={"later_frames": "first_frame"} if prediction == "data" else {},
            text=text or TextConfig("bytes", self.text_tokens, self.text_bytes),
            feature_channels=feature_channels,
            auxiliary_layer=auxiliary_layer,
            frame_steps=self.frame_stride * frames.stride,
            lora=lora,
        )
