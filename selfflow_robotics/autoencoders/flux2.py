"""FLUX.2's autoencoder, through diffusers: the latents of the paper's text-to-image experiments.

Its own latents (32 channels, 8 px) are cut into patches of 2 x 2, whose channels are then
normalized with the statistics that come with the weights, as FLUX.2 does it: 128 x 16 x 16 for 256
px. `autoencoders.diffusers_files` finds the weights.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from selfflow_robotics.autoencoders.diffusers_files import DiffusersNetwork
from selfflow_robotics.autoencoders.latent import check_divides, to_frames, to_planes

NETWORK = DiffusersNetwork(
    kind="flux2",
    class_name="AutoencoderKLFlux2",
    packages=("diffusers",),
    extra="flux2",
    subfolder="vae",
)


class Flux2Autoencoder:
    """A diffusers AutoencoderKLFlux2 as a `LatentAutoencoder`; float32, no gradients."""

    def __init__(self, network: Any, device: torch.device | str = "cpu") -> None:
        self.fingerprint = NETWORK.fingerprint(network)
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)
        config = network.config
        self._patch: tuple[int, int] = tuple(config.patch_size)
        self.channels: int = config.latent_channels * self._patch[0] * self._patch[1]
        self.downsample: int = 2 ** (len(config.block_out_channels) - 1) * self._patch[0]
        statistics = network.bn
        self._mean = statistics.running_mean.view(1, -1, 1, 1)
        self._std = (statistics.running_var + statistics.eps).sqrt().view(1, -1, 1, 1)

    @classmethod
    def load(
        cls, weights: str, download: bool, device: torch.device | str = "cpu"
    ) -> "Flux2Autoencoder":
        """From a folder or a name. Raises UserError as `DiffusersNetwork.load`."""
        return cls(NETWORK.load(weights, download), device)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As `LatentAutoencoder.encode`. Raises UserError for sizes that do not divide."""
        check_divides("images", frames.shape[1:3], self.downsample)
        with torch.autocast(self._device.type, enabled=False):
            posterior = self._network.encode(to_planes(frames.to(self._device))).latent_dist
        mean, std = self._patches(posterior.mean), self._patches(posterior.std)
        return (mean - self._mean) / self._std, std / self._std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As `LatentAutoencoder.decode`."""
        own = latents.to(self._device, torch.float32) * self._std + self._mean
        p, q = self._patch
        own = rearrange(own, "b (c p q) h w -> b c (h p) (w q)", p=p, q=q)
        with torch.autocast(self._device.type, enabled=False):
            return to_frames(self._network.decode(own).sample)

    def _patches(self, latents: Tensor) -> Tensor:
        p, q = self._patch
        return rearrange(latents, "b c (h p) (w q) -> b (c p q) h w", p=p, q=q)
