"""Stable Diffusion's autoencoder (arXiv 2112.10752), through diffusers.

`autoencoders.diffusers_files` finds the weights.
"""

from typing import Any

import torch
from torch import Tensor

from selfflow_robotics.autoencoders.diffusers_files import DiffusersNetwork
from selfflow_robotics.autoencoders.latent import check_divides, to_frames, to_planes

NETWORK = DiffusersNetwork(
    kind="sd_vae",
    class_name="AutoencoderKL",
    packages=("diffusers",),
    extra="images",
    renamed={
        ".query.": ".to_q.",
        ".key.": ".to_k.",
        ".value.": ".to_v.",
        ".proj_attn.": ".to_out.0.",
    },
)


class SdVae:
    """A diffusers AutoencoderKL as a `LatentAutoencoder`; float32, no gradients.

    Always float32, even under autocast, because latents are computed once and used for months (on a
    GPU, cuDNN still runs the convolutions on tensor cores by default).
    """

    def __init__(self, network: Any, device: torch.device | str = "cpu") -> None:
        self.fingerprint = NETWORK.fingerprint(network)
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)
        config = network.config
        self.channels: int = config.latent_channels
        self.downsample: int = 2 ** (len(config.block_out_channels) - 1)
        self._scale: float = config.scaling_factor
        self._shift: float = getattr(config, "shift_factor", None) or 0.0

    @classmethod
    def load(cls, weights: str, download: bool, device: torch.device | str = "cpu") -> "SdVae":
        """From a folder or a name. Raises UserError as `DiffusersNetwork.load`."""
        return cls(NETWORK.load(weights, download), device)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As `LatentAutoencoder.encode`. Raises UserError for sizes that do not divide."""
        check_divides("images", frames.shape[1:3], self.downsample)
        with torch.autocast(self._device.type, enabled=False):
            posterior = self._network.encode(to_planes(frames.to(self._device))).latent_dist
        return (posterior.mean - self._shift) * self._scale, posterior.std * self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As `LatentAutoencoder.decode`."""
        own = latents.to(self._device, torch.float32) / self._scale + self._shift
        with torch.autocast(self._device.type, enabled=False):
            return to_frames(self._network.decode(own).sample)
