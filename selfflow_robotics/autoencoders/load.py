"""Which autoencoder turns pictures into latents, as configuration."""

from dataclasses import dataclass
from typing import Literal

import torch

from selfflow_robotics.autoencoders.latent import LatentAutoencoder, PixelLatents
from selfflow_robotics.autoencoders.sd_vae import SdVae


@dataclass(frozen=True)
class AutoencoderConfig:
    """`kind` "pixel" needs no weights and ignores the rest. `weights`: a folder, or a name on
    Hugging Face, which is fetched only if `download`."""

    kind: Literal["sd_vae", "pixel"] = "sd_vae"
    weights: str = "stabilityai/sd-vae-ft-ema"
    download: bool = False


def load_autoencoder(
    config: AutoencoderConfig, device: torch.device | str = "cpu"
) -> LatentAutoencoder:
    """The autoencoder of `config` on `device`. Raises UserError as `SdVae.load` does."""
    if config.kind == "pixel":
        return PixelLatents()
    return SdVae.load(config.weights, config.download, device)
