"""Stable Diffusion's autoencoder (arXiv 2112.10752) as latents for a network, through diffusers.

The weights are looked for on this machine only, unless a download is asked for: a folder with
config.json and diffusion_pytorch_model.safetensors, or a name that Hugging Face's cache holds.
Pickled weights are never read.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfflow_robotics.autoencoders.latent import to_frames, to_planes
from selfflow_robotics.errors import UserError

FILES = ["config.json", "diffusion_pytorch_model.safetensors"]


class SdVae:
    """A diffusers AutoencoderKL as a `LatentAutoencoder`; float32, no gradients.

    Float32 because latents are made once and used for months (on a GPU the convolutions still go
    through its tensor cores, as cuDNN does by default).
    """

    def __init__(self, network: Any, device: torch.device | str = "cpu") -> None:
        self.fingerprint = _fingerprint(network)
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = device
        config = network.config
        self.channels: int = config.latent_channels
        self.downsample: int = 2 ** (len(config.block_out_channels) - 1)
        self._scale: float = config.scaling_factor
        self._shift: float = getattr(config, "shift_factor", None) or 0.0

    @classmethod
    def load(cls, weights: str, download: bool, device: torch.device | str = "cpu") -> "SdVae":
        """From a folder or a name; see the module's docstring.

        Raises UserError where diffusers, the weights or the network are missing, and for weights
        that are damaged or belong to another architecture.
        """
        return cls(_read(_folder(weights, download), weights), device)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As `LatentAutoencoder.encode`. Raises UserError for sides that do not fit."""
        height, width = frames.shape[1:3]
        if height % self.downsample or width % self.downsample:
            raise UserError(
                f"pictures of {height} x {width} px do not divide into latents of "
                f"{self.downsample} px; change image_size"
            )
        posterior = self._network.encode(to_planes(frames.to(self._device))).latent_dist
        return (posterior.mean - self._shift) * self._scale, posterior.std * self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As `LatentAutoencoder.decode`."""
        own = latents.to(self._device, torch.float32) / self._scale + self._shift
        return to_frames(self._network.decode(own).sample)


def _folder(weights: str, download: bool) -> Path:
    """The folder that holds the files of `weights`, downloaded into Hugging Face's cache if so
    asked."""
    if Path(weights).is_dir():
        return Path(weights)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise _without_diffusers() from None
    try:
        return Path(snapshot_download(weights, allow_patterns=FILES, local_files_only=not download))
    except (OSError, ValueError) as error:
        if not download:
            raise UserError(
                f"the autoencoder's weights '{weights}' are not on this machine; download=true "
                "fetches them, or give a folder that holds them"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot download the autoencoder's weights '{weights}' ({reason}); check the name and "
            "the network, or give a folder that holds them"
        ) from error


def _read(folder: Path, weights: str) -> Any:
    try:
        from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]
        from diffusers.utils import logging
    except ImportError:
        raise _without_diffusers() from None
    try:
        kind = json.loads((folder / FILES[0]).read_text())["_class_name"]
        if kind != AutoencoderKL.__name__:
            raise UserError(f"{weights} is a {kind}; an AutoencoderKL of diffusers is needed")
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # what it would say of missing weights is an error below
        try:
            loaded: Any = AutoencoderKL.from_pretrained(
                str(folder),
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,  # would need another package, for a network this small
                output_loading_info=True,
                torch_dtype=torch.float32,
            )
        finally:
            logging.set_verbosity(verbosity)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot read the autoencoder in {folder} ({reason}); it needs {' and '.join(FILES)}"
        ) from error
    network, report = loaded
    if unfit := [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]:
        raise UserError(
            f"the weights in {folder} do not fit their config.json: {unfit[0]} is missing, of "
            "another shape, or unknown; get both files again"
        )
    return network


def _without_diffusers() -> UserError:
    return UserError(
        "autoencoder=sd_vae needs diffusers: pip install 'selfflow_robotics[images]'; "
        "autoencoder=pixel needs nothing"
    )


def _fingerprint(network: Any) -> str:
    """A hash of the settings (without what diffusers notes for itself) and every weight."""
    settings = {k: v for k, v in network.config.items() if not k.startswith("_")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, weight in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} ".encode())
        digest.update(weight.detach().cpu().float().contiguous().numpy())
    return digest.hexdigest()
