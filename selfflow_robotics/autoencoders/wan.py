"""Wan's video autoencoder (arXiv 2503.20314), through diffusers.

Wan 2.2 encodes 16 x 16 px and 4 frames to 48 channels, Wan 2.1 8 x 8 px and 4 frames to 16
channels. `autoencoders.diffusers_files` finds the weights.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from selfflow_robotics.autoencoders.diffusers_files import DiffusersNetwork
from selfflow_robotics.autoencoders.latent import check_divides, to_frames, to_planes
from selfflow_robotics.errors import UserError

NETWORK = DiffusersNetwork(
    kind="wan",
    class_name="AutoencoderKLWan",
    packages=("diffusers",),
    extra="video",
    subfolder="vae",
)
STRIDE = 4  # frames; the class supports no other value, whatever its configuration says


class Wan:
    """A diffusers AutoencoderKLWan as a `VideoAutoencoder`; float32, no gradients."""

    def __init__(self, network: Any, device: torch.device | str = "cpu") -> None:
        self.fingerprint = NETWORK.fingerprint(network)
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)
        config = network.config
        self.channels: int = config.z_dim
        self.downsample: int = config.scale_factor_spatial
        self.stride = STRIDE
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )

    @classmethod
    def load(cls, weights: str, download: bool, device: torch.device | str = "cpu") -> "Wan":
        """From a folder or a name of the autoencoder, or of a whole pipeline.

        Raises UserError as `DiffusersNetwork.load`, and if the mean and standard deviation in the
        configuration do not match its channels.
        """
        network = NETWORK.load(weights, download)
        config = network.config
        if not len(config.latents_mean) == len(config.latents_std) == config.z_dim:
            raise UserError(
                f"the config.json of {weights} has {config.z_dim} channels, but latents_mean and "
                f"latents_std of {len(config.latents_mean)} and {len(config.latents_std)}; "
                "download the files again"
            )
        return cls(network, device)

    @torch.no_grad()
    def encode(self, clips: Tensor) -> Tensor:
        """As `VideoAutoencoder.encode`. Raises UserError for sizes and numbers of frames that do
        not divide: the diffusers class would silently drop the rest."""
        count = clips.shape[1]
        check_divides("frames", clips.shape[2:4], self.downsample)
        if (count - 1) % self.stride:
            raise UserError(
                f"clips of {count} frames do not divide into latent frames (one for the first "
                f"frame, then one per {self.stride} frames); use {self.stride}n + 1 frames"
            )
        planes = to_planes(clips.to(self._device).flatten(0, 1))
        planes = rearrange(planes, "(b t) c h w -> b c t h w", t=count)
        with torch.autocast(self._device.type, enabled=False):
            mean = self._network.encode(planes).latent_dist.mean
        return rearrange((mean - self._mean) / self._std, "b c t h w -> b t c h w")

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As `VideoAutoencoder.decode`."""
        scaled = rearrange(latents.to(self._device, torch.float32), "b t c h w -> b c t h w")
        with torch.autocast(self._device.type, enabled=False):
            planes = self._network.decode(scaled * self._std + self._mean).sample
        frames = to_frames(rearrange(planes, "b c t h w -> (b t) c h w"))
        return frames.unflatten(0, (len(latents), -1))
