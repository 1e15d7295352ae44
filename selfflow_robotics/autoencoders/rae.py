"""Representation autoencoders (arXiv 2510.11690), through diffusers.

The latents are patch features of a frozen vision transformer, 768 x 16 x 16 for DINOv2-B and 256
px; a trained decoder turns them into images. `autoencoders.diffusers_files` finds the weights.
"""

from typing import Any

import torch
from torch import Tensor

from selfflow_robotics.autoencoders.diffusers_files import DiffusersNetwork
from selfflow_robotics.autoencoders.latent import to_frames, to_planes
from selfflow_robotics.errors import UserError

NETWORK = DiffusersNetwork(
    kind="rae",
    class_name="AutoencoderRAE",
    packages=("diffusers", "transformers"),
    extra="rae",
    # transformers 5 renamed DINOv2's layers; the published weights have the old names.
    renamed={
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
    },
    unused=("decoder.decoder_pos_embed",),
)


class Rae:
    """A diffusers AutoencoderRAE as a `LatentAutoencoder`; float32, no gradients.

    The encoder is deterministic, so the posterior's standard deviation is 0. The diffusers class
    resizes images to the encoder's size (224 px) and scales latents to unit variance. Only images
    of the decoder's output size are accepted, as others would silently be encoded to the same grid.
    """

    def __init__(self, network: Any, device: torch.device | str = "cpu") -> None:
        self.fingerprint = NETWORK.fingerprint(network)
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)
        config = network.config
        self.channels: int = config.encoder_hidden_size
        self.downsample: int = config.patch_size  # size of the decoder; the encoder's differs
        grid = config.encoder_input_size // config.encoder_patch_size
        self._side: int = grid * self.downsample

    @classmethod
    def load(cls, weights: str, download: bool, device: torch.device | str = "cpu") -> "Rae":
        """From a folder or a name. Raises UserError as `DiffusersNetwork.load`."""
        return cls(NETWORK.load(weights, download), device)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As `LatentAutoencoder.encode`. Raises UserError for images of a different size."""
        height, width = frames.shape[1:3]
        if (height, width) != (self._side, self._side):
            raise UserError(
                f"images are {height} x {width} px, but this autoencoder needs {self._side} x "
                f"{self._side}; set image_size={self._side}"
            )
        planes = (to_planes(frames.to(self._device)) + 1) / 2
        with torch.autocast(self._device.type, enabled=False):
            mean = self._network.encode(planes).latent
        return mean, torch.zeros_like(mean)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As `LatentAutoencoder.decode`."""
        own = latents.to(self._device, torch.float32).contiguous()  # the class takes views of it
        with torch.autocast(self._device.type, enabled=False):
            return to_frames(self._network.decode(own).sample * 2 - 1)
