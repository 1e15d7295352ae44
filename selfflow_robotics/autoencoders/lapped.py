"""Sound as a modified discrete cosine transform: 25 latents of 640 channels per second at 16 kHz.

An orthonormal lapped transform (MDCT; Princen, Johnson & Bradley 1987) with a sine window: it has
as many coefficients as there are samples, so it is exact, and what is heard is what the network
predicts. The price are ten times the channels of `autoencoders.spectrogram`, and coefficients whose
signs depend on phases. At both ends the window is rectangular, so that nothing reaches beyond.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from selfflow_robotics.autoencoders.latent import LATENTS_PER_S, check_rate, check_samples

# Latents are asinh(coefficient / QUIET): linear for quiet ones and logarithmic for loud ones, like
# the companding of telephony. So an error counts relative to what it disturbs.
QUIET = 1e-3


class LappedTransform:
    """A `SoundAutoencoder`; float32, no gradients."""

    def __init__(self, sample_rate: int, device: torch.device | str = "cpu") -> None:
        """Raises UserError for a rate that is not a multiple of 50 Hz."""
        check_rate(sample_rate, 2 * LATENTS_PER_S)  # half a latent is a whole number of samples
        self.sample_rate = sample_rate
        self.channels = self.downsample = size = sample_rate // LATENTS_PER_S
        self.fingerprint = f"mdct {sample_rate} Hz"
        self._device = torch.device(device)
        places = torch.arange(2 * size, dtype=torch.float64) + 0.5
        orders = torch.arange(size, dtype=torch.float64) + 0.5
        cosines = torch.cos(math.pi / size * orders[:, None] * (places + size / 2))
        self._basis = (math.sqrt(2 / size) * cosines).float().to(device)  # [C, 2 C]
        self._window = torch.sin(math.pi / (2 * size) * places).float().to(device)

    @torch.no_grad()
    def encode(self, sounds: Tensor) -> Tensor:
        """As `SoundAutoencoder.encode`. Raises UserError for lengths that do not divide."""
        check_samples(sounds, self.downsample)
        half = self.downsample // 2
        padded = F.pad(sounds.to(self._device, torch.float32), (half, half))
        pieces = padded.unfold(-1, 2 * self.downsample, self.downsample)
        with torch.autocast(self._device.type, enabled=False):
            coefficients = (pieces * self._windows(pieces.shape[1])) @ self._basis.T
        return torch.asinh(coefficients / QUIET)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As `SoundAutoencoder.decode`."""
        own = latents.to(self._device, torch.float32)
        with torch.autocast(self._device.type, enabled=False):
            pieces = (own.sinh() * QUIET) @ self._basis * self._windows(own.shape[1])
        before, after = pieces.unflatten(2, (2, self.downsample)).unbind(2)
        whole = F.pad(before, (0, 0, 0, 1)) + F.pad(after, (0, 0, 1, 0))
        half = self.downsample // 2
        return whole.flatten(1)[:, half:-half].clamp(-1, 1)

    def _windows(self, count: int) -> Tensor:
        """[count, 2 C]: the window of each latent."""
        size, half = self.downsample, self.downsample // 2
        windows = self._window.repeat(count, 1)
        windows[0, :half], windows[0, half:size] = 0, 1
        windows[-1, size:-half], windows[-1, -half:] = 1, 0
        return windows
