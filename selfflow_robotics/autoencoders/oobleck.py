"""Stable Audio's autoencoder (Oobleck; arXiv 2407.14358), through diffusers.

The published one encodes 44.1 kHz stereo: 2048 samples become a latent of 64 channels, 21.5 per
second. Mono sounds are given to it as two equal channels, and the mean of its channels is returned.
`autoencoders.diffusers_files` finds the weights.
"""

from typing import Any

import torch
from torch import Tensor

from selfflow_robotics.autoencoders.diffusers_files import DiffusersNetwork
from selfflow_robotics.autoencoders.latent import check_samples

NETWORK = DiffusersNetwork(
    kind="oobleck",
    class_name="AutoencoderOobleck",
    packages=("diffusers",),
    extra="sound",
    subfolder="vae",
    instead="spectrogram",
)


class Oobleck:
    """A diffusers AutoencoderOobleck as a `SoundAutoencoder`; float32, no gradients."""

    def __init__(self, network: Any, device: torch.device | str = "cpu") -> None:
        self.fingerprint = NETWORK.fingerprint(network)
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)
        config = network.config
        self.channels: int = config.decoder_input_channels
        self.sample_rate: int = config.sampling_rate
        self.downsample: int = network.hop_length
        self._audio_channels: int = config.audio_channels

    @classmethod
    def load(cls, weights: str, download: bool, device: torch.device | str = "cpu") -> "Oobleck":
        """From a folder or a name of the autoencoder, or of a whole pipeline. Raises UserError as
        `DiffusersNetwork.load`."""
        return cls(NETWORK.load(weights, download), device)

    @torch.no_grad()
    def encode(self, sounds: Tensor) -> Tensor:
        """As `SoundAutoencoder.encode`, the posterior's means. Raises UserError for lengths that do
        not divide."""
        check_samples(sounds, self.downsample)
        alike = sounds.to(self._device, torch.float32)[:, None].expand(-1, self._audio_channels, -1)
        with torch.autocast(self._device.type, enabled=False):
            return self._network.encode(alike).latent_dist.mean.transpose(1, 2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As `SoundAutoencoder.decode`."""
        own = latents.to(self._device, torch.float32).transpose(1, 2)
        with torch.autocast(self._device.type, enabled=False):
            return self._network.decode(own).sample.mean(1).clamp(-1, 1)
