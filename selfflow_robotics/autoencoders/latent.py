"""The interfaces of image, video and sound autoencoders, and pixels as latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from selfflow_robotics.errors import UserError

LATENTS_PER_S = 25  # of the sound autoencoders without weights


class Autoencoder(Protocol):
    """What autoencoders of images and of clips have in common."""

    @property
    def channels(self) -> int:
        """C of the latents."""
        ...

    @property
    def downsample(self) -> int:
        """Downsampling factor; sides of images and frames are multiples of it."""
        ...

    @property
    def fingerprint(self) -> str:
        """The same for equal configuration and weights, and for nothing else."""
        ...


class LatentAutoencoder(Autoencoder, Protocol):
    """Images <-> latents of about unit variance, which the network reads.

    The factor between an autoencoder's own latents and unit variance (0.18215 for SD-VAE) is
    applied only here: `encode` returns and `decode` takes scaled latents, and so do caches and
    networks.
    """

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior, float32 [B, C, H / d, W / d], of images
        uint8 [B, H, W, 3]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images uint8 [B, H, W, 3] of latents [B, C, H / d, W / d]."""
        ...


class VideoAutoencoder(Autoencoder, Protocol):
    """Clips <-> latents of about unit variance.

    The first latent frame covers one frame, each later one `stride` frames: T frames become 1 + (T
    - 1) / stride. No latent frame depends on later frames.
    """

    @property
    def stride(self) -> int:
        """Frames per latent frame after the first."""
        ...

    def encode(self, clips: Tensor) -> Tensor:
        """Means of the posterior, float32 [B, T', C, H / d, W / d], of clips uint8
        [B, T, H, W, 3]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Clips uint8 [B, T, H, W, 3] of latents [B, T', C, H / d, W / d]."""
        ...


class SoundAutoencoder(Protocol):
    """Mono sounds <-> latents of about unit variance.

    `downsample` samples become one latent.
    """

    @property
    def channels(self) -> int:
        """C of the latents."""
        ...

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        ...

    @property
    def downsample(self) -> int:
        """Samples per latent; the length of a sound is a multiple of it."""
        ...

    @property
    def fingerprint(self) -> str:
        """As `Autoencoder.fingerprint`."""
        ...

    def encode(self, sounds: Tensor) -> Tensor:
        """Latents float32 [B, N, C] of sounds float32 [B, N d] in [-1, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Sounds float32 [B, N d] in [-1, 1] of latents [B, N, C]."""
        ...


def check_rate(sample_rate: int, multiple_of: int) -> None:
    """Raise UserError for a rate from which no whole number of samples follows."""
    if sample_rate < multiple_of or sample_rate % multiple_of:
        raise UserError(f"sample_rate must be a multiple of {multiple_of} Hz, got {sample_rate}")


def check_samples(sounds: Tensor, downsample: int) -> None:
    """Raise UserError for sounds [B, samples] that do not divide into latents."""
    if sounds.ndim != 2 or not sounds.shape[1] or sounds.shape[1] % downsample:
        raise UserError(
            f"sounds must be [B, samples] with a multiple of {downsample} samples, got "
            f"{tuple(sounds.shape)}; change their length in seconds"
        )


def check_divides(what: str, size: Sequence[int], downsample: int) -> None:
    """Raise UserError for images (`what`) whose (height, width) does not divide into latents."""
    height, width = size
    if height % downsample or width % downsample:
        raise UserError(
            f"{what} of {height} x {width} px are not divisible by {downsample} px; change "
            "image_size"
        )


def to_planes(frames: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1]."""
    return rearrange(frames.to(torch.float32), "b h w c -> b c h w") / 127.5 - 1


def to_frames(planes: Tensor) -> Tensor:
    """The inverse of `to_planes`, rounded; values beyond [-1, 1] are clipped."""
    levels = ((planes.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(levels, "b c h w -> b h w c")


@dataclass(frozen=True)
class PixelLatents:
    """Pixels as latents: three planes in [-1, 1] at full size, with std = 0."""

    channels: int = 3
    downsample: int = 1
    fingerprint: str = "pixel"

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        planes = to_planes(frames)
        return planes, torch.zeros_like(planes)

    def decode(self, latents: Tensor) -> Tensor:
        return to_frames(latents)
