"""A small convolutional autoencoder for the frames of one camera, trained in minutes.

0.27 M parameters, downsampling factor 8. `pretrain/autoencoder.py` trains it on a data set's frames
and writes one file, whose header records its configuration and PSNR.
"""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from selfflow_robotics.autoencoders.latent import check_divides, to_frames, to_planes
from selfflow_robotics.errors import UserError
from selfflow_robotics.finite import check_finite
from selfflow_robotics.json_file import parse
from selfflow_robotics.rng import draw
from selfflow_robotics.whole_file import whole_file

FILE = "autoencoder.safetensors"
# Comes with the package, trained on frames of the tabletop simulator by
# `python pretrain/autoencoder.py channels=8 train.steps=5000 train.ema_decay=0.995`.
TABLETOP = Path(__file__).parent / "tabletop.safetensors"
WIDTHS = (24, 48, 96)
DOWNSAMPLE = 2 ** len(WIDTHS)
MOST_CHANNELS = 64


class SmallNetwork(nn.Module):
    """Strided convolutions down, pixel shuffle up; a Gaussian posterior between them."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        if not 1 <= channels <= MOST_CHANNELS:
            raise UserError(f"channels must be from 1 to {MOST_CHANNELS}, got {channels}")
        self.channels = channels
        down: list[nn.Module] = []
        for before, after in zip((3, *WIDTHS), WIDTHS, strict=False):
            down += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(WIDTHS[-1], 2 * channels, 3, padding=1))
        up: list[nn.Module] = [nn.Conv2d(channels, WIDTHS[-1], 3, padding=1)]
        for before, after in zip(WIDTHS[::-1], (*WIDTHS[-2::-1], 3), strict=True):
            up += [nn.GroupNorm(8, before), nn.SiLU()]
            up += [nn.Conv2d(before, 4 * after, 3, padding=1), nn.PixelShuffle(2)]
        self.decoder = nn.Sequential(*up)

    def posterior(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [B, C, H / 8, W / 8] of planes [B, 3, H, W] in [-1, 1]."""
        mean, log_variance = self.encoder(planes).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)


def small_loss(
    network: SmallNetwork, planes: Tensor, kl: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mean squared error + `kl` x the KL divergence from N(0, 1) per latent value; also the error
    alone."""
    mean, log_variance = (x.float() for x in network.posterior(planes))
    noise = draw(torch.randn, mean.shape, generator)
    decoded = network.decoder(mean + (log_variance / 2).exp() * noise)
    error = (decoded.float() - planes).square().mean()
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
    return error + kl * divergence, error


class SmallAutoencoder:
    """A trained `SmallNetwork` as a `LatentAutoencoder`; float32, no gradients."""

    downsample = DOWNSAMPLE

    def __init__(
        self,
        network: SmallNetwork,
        scale: float,
        told: dict[str, Any],
        device: torch.device | str = "cpu",
    ) -> None:
        """scale: standard deviation of the latents; told: other entries of the file's header (psnr,
        ...)."""
        self.channels, self.told = network.channels, told
        self._scale = scale
        # Round to float16, as in the file: half the size without a visible difference.
        network = copy.deepcopy(network).half().float()
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)
        digest = hashlib.sha256(f"small {self.channels} {scale!r} ".encode())
        for name, weight in sorted(network.state_dict().items()):
            digest.update(f"{name} ".encode())
            digest.update(weight.cpu().float().numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def load(
        cls, weights: str | None = None, device: torch.device | str = "cpu"
    ) -> "SmallAutoencoder":
        """From a run folder of pretrain/autoencoder.py, or its file; None: `TABLETOP`.

        Raises UserError if it is missing, damaged or not finite.
        """
        path = TABLETOP if weights is None else Path(weights).expanduser()
        path = path / FILE if path.is_dir() else path
        try:
            with safe_open(path, framework="pt") as opened:
                told = parse(opened.metadata()["autoencoder"])
                state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            channels, scale = told["channels"], float(told["scale"])
            if type(channels) is not int or not 0 < scale < float("inf"):
                raise ValueError("its header does not describe an autoencoder")
            network = SmallNetwork(channels)
            network.load_state_dict(state)
            check_finite(state, f"the weights in {path}")
        except FileNotFoundError as error:
            raise UserError(
                f"no autoencoder at {path}; train one with pretrain/autoencoder.py"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} is not a small autoencoder ({reason})") from error
        return cls(network, scale, told, device)

    def save(self, path: Path) -> None:
        """Write the file atomically. Raises OSError."""
        told = {**self.told, "channels": self.channels, "scale": self._scale}
        state = {name: x.cpu().half() for name, x in self._network.state_dict().items()}
        with whole_file(path) as file:
            file.write(save(state, {"autoencoder": json.dumps(told)}))

    @torch.no_grad()
    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As `LatentAutoencoder.encode`. Raises UserError for sizes that do not divide."""
        check_divides("images", frames.shape[1:3], DOWNSAMPLE)
        with torch.autocast(self._device.type, enabled=False):
            mean, log_variance = self._network.posterior(to_planes(frames.to(self._device)))
        return mean / self._scale, (log_variance / 2).exp() / self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As `LatentAutoencoder.decode`."""
        own = latents.to(self._device, torch.float32) * self._scale
        with torch.autocast(self._device.type, enabled=False):
            return to_frames(self._network.decoder(own))


def psnr(frames: Tensor, decoded: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images uint8, over all of them."""
    error = (frames.float() - decoded.float()).square().mean().clamp(min=1e-10)
    return float(10 * torch.log10(255**2 / error))
