"""Configuration and loading of autoencoders."""

from dataclasses import dataclass
from typing import Literal

import torch

from selfflow_robotics.autoencoders.flux2 import Flux2Autoencoder
from selfflow_robotics.autoencoders.lapped import LappedTransform
from selfflow_robotics.autoencoders.latent import (
    LatentAutoencoder,
    PixelLatents,
    SoundAutoencoder,
    VideoAutoencoder,
)
from selfflow_robotics.autoencoders.oobleck import Oobleck
from selfflow_robotics.autoencoders.rae import Rae
from selfflow_robotics.autoencoders.sd_vae import SdVae
from selfflow_robotics.autoencoders.small import SmallAutoencoder
from selfflow_robotics.autoencoders.spectrogram import Spectrogram
from selfflow_robotics.autoencoders.wan import Wan
from selfflow_robotics.errors import UserError

AutoencoderKind = Literal[
    "sd_vae", "rae", "flux2", "pixel", "wan", "small", "spectrogram", "mdct", "oobleck"
]
WITHOUT_WEIGHTS = ("pixel", "spectrogram", "mdct")
SAMPLE_RATE = 16_000  # Hz, of sound autoencoders without weights
SOUND_KINDS = ("spectrogram", "mdct", "oobleck")

# The default weights.
WEIGHTS = {
    "sd_vae": "stabilityai/sd-vae-ft-ema",
    "rae": "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08",
    "flux2": "black-forest-labs/FLUX.2-klein-4B",
    "wan": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    "oobleck": "stabilityai/stable-audio-open-1.0",
}


@dataclass(frozen=True)
class AutoencoderConfig:
    """Kinds in `WITHOUT_WEIGHTS` ignore the rest. `weights`: a folder, or a name on
    Hugging Face, which is downloaded only with `download`; None: the default in `WEIGHTS`, or for
    "small" the autoencoder for the tabletop's camera, which comes with the package."""

    kind: AutoencoderKind = "sd_vae"
    weights: str | None = None
    download: bool = False

    @property
    def source(self) -> str | None:
        """The folder or name of the weights; None if there are none."""
        return None if self.kind in WITHOUT_WEIGHTS else self.weights or WEIGHTS.get(self.kind)


def load_autoencoder(
    config: AutoencoderConfig, device: torch.device | str = "cpu"
) -> LatentAutoencoder:
    """Load the image autoencoder of `config`.

    Raises UserError for one of videos or sounds, and as `DiffusersNetwork.load` does.
    """
    if config.kind in SOUND_KINDS:
        raise UserError(f"autoencoder={config.kind} encodes sounds, not images; choose sd_vae")
    if config.kind == "pixel":
        return PixelLatents()
    if config.kind == "small":
        return SmallAutoencoder.load(config.weights, device)
    assert config.source is not None
    if config.kind == "wan":
        raise UserError("autoencoder=wan encodes clips, not single images; choose sd_vae or rae")
    networks = {"rae": Rae, "flux2": Flux2Autoencoder, "sd_vae": SdVae}
    return networks[config.kind].load(config.source, config.download, device)


def load_video_autoencoder(
    config: AutoencoderConfig, device: torch.device | str = "cpu"
) -> VideoAutoencoder:
    """Load the video autoencoder of `config`. Raises UserError as `load_autoencoder`."""
    if config.kind != "wan" or config.source is None:
        raise UserError(f"autoencoder={config.kind} encodes single images, not clips; choose wan")
    return Wan.load(config.source, config.download, device)


def load_sound_autoencoder(
    config: AutoencoderConfig, device: torch.device | str = "cpu", sample_rate: int | None = None
) -> SoundAutoencoder:
    """Load the sound autoencoder of `config`.

    sample_rate: in Hz; None: `SAMPLE_RATE`, or that of the weights.

    Raises UserError for an autoencoder of images or videos, for a rate that does not fit it, and as
    `DiffusersNetwork.load` does.
    """
    if config.kind not in SOUND_KINDS:
        raise UserError(
            f"autoencoder={config.kind} encodes no sounds; choose {' or '.join(SOUND_KINDS)}"
        )
    if config.kind == "spectrogram":
        return Spectrogram(sample_rate or SAMPLE_RATE, device)
    if config.kind == "mdct":
        return LappedTransform(sample_rate or SAMPLE_RATE, device)
    assert config.source is not None
    network = Oobleck.load(config.source, config.download, device)
    if sample_rate not in (None, network.sample_rate):
        raise UserError(
            f"{config.source} encodes sounds of {network.sample_rate} Hz; set sample_rate to it, "
            f"not to {sample_rate}"
        )
    return network
