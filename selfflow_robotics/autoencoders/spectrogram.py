"""Sound as a log-mel spectrogram, without weights: 25 latents of 64 channels per second.

That is the layout of the paper's audio experiments (arXiv 2603.06507: SongBloom's autoencoder, 25
latents per second, 64 channels). Here, the channels are the powers of `BANDS` mel bands in a window
of 120 ms, and the levels of `LEVELS` parts of the latent's own 40 ms, all in decibels. Phases are
lost. Decoding spreads the bands over the frequencies, finds phases with the fast Griffin-Lim
algorithm (Perraudin, Balazs & Sondergaard, WASPAA 2013) and then sets the levels, which sharpens
onsets that the long window has smeared. `autoencoders.lapped` is exact, but has 640 channels.
"""

import math
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from selfflow_robotics.autoencoders.latent import LATENTS_PER_S, check_rate, check_samples
from selfflow_robotics.rng import torch_generator

BANDS, LEVELS = 60, 4
OVERLAP = 3  # windows that cover a sample
LOWEST_HZ = 40.0
FLOOR_DB = -80.0  # quieter is silent; a sine of amplitude 1 has 0 dB in its band
MEAN_DB, SPREAD_DB = -60.0, 20.0  # bring latents to about unit scale: silence is -1
SPREADING = 30  # iterations that fit a spectrum to the bands
ITERATIONS, MOMENTUM = 16, 0.99  # of Griffin-Lim
MOST_GAIN = 2.0  # of amplitudes, when levels are set
TINY = 1e-12  # of a power


class Spectrogram:
    """A `SoundAutoencoder`; float32, no gradients."""

    channels = BANDS + LEVELS

    def __init__(self, sample_rate: int, device: torch.device | str = "cpu") -> None:
        """Raises UserError for a rate that is not a multiple of 100 Hz."""
        check_rate(sample_rate, LATENTS_PER_S * LEVELS)
        self.sample_rate = sample_rate
        self.downsample = sample_rate // LATENTS_PER_S
        self.fingerprint = f"spectrogram {BANDS}+{LEVELS} {sample_rate} Hz"
        self._device = torch.device(device)
        self._window = torch.hann_window(OVERLAP * self.downsample, device=device)

    @cached_property
    def _filters(self) -> Tensor:
        """Triangular mel filters (O'Shaughnessy's scale) [BANDS, F]."""
        size = len(self._window)
        frequencies = torch.linspace(0, self.sample_rate / 2, size // 2 + 1)
        ends = torch.linspace(_mel(LOWEST_HZ), _mel(self.sample_rate / 2), BANDS + 2)
        edges = 700 * (10 ** (ends / 2595) - 1)
        low, centre, high = (edges[i : i + BANDS, None] for i in range(3))
        rising = (frequencies - low) / (centre - low)
        falling = (high - frequencies) / (high - centre)
        filters = torch.minimum(rising, falling).clamp(min=0)
        # Low bands are narrower than the distance of two frequencies: each keeps its nearest one.
        nearest = F.one_hot((frequencies - centre).abs().argmin(1), len(frequencies))
        empty = filters.sum(1, keepdim=True) == 0
        return torch.where(empty, nearest.float(), filters).to(self._device)

    @torch.no_grad()
    def encode(self, sounds: Tensor) -> Tensor:
        """As `SoundAutoencoder.encode`. Raises UserError for lengths that do not divide."""
        check_samples(sounds, self.downsample)
        sounds = sounds.to(self._device, torch.float32)
        with torch.autocast(self._device.type, enabled=False):
            amplitudes = self._spectra(sounds).abs() * self._scale
            bands = amplitudes.square() @ self._filters.T
        levels = self._levels(sounds).unflatten(1, (-1, LEVELS))
        decibels = 10 * torch.cat([bands, levels], 2).clamp(min=TINY).log10()
        return (decibels.clamp(min=FLOOR_DB) - MEAN_DB) / SPREAD_DB

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As `SoundAutoencoder.decode`; a function of the latents alone."""
        decibels = latents.to(self._device, torch.float32) * SPREAD_DB + MEAN_DB
        powers = 10 ** (decibels.clamp(max=0) / 10) - 10 ** (FLOOR_DB / 10)
        bands, levels = powers.clamp(min=0).split([BANDS, LEVELS], 2)
        with torch.autocast(self._device.type, enabled=False):
            sounds = self._griffin_lim(self._spread(bands).sqrt() / self._scale)
            return self._with_levels(sounds, levels.flatten(1)).clamp(-1, 1)

    @property
    def _scale(self) -> float:
        """Brings the peak of a sine of amplitude 1 to 1."""
        return 2 / float(self._window.sum())

    def _spread(self, powers: Tensor) -> Tensor:
        """Powers per frequency [B, N, F] whose bands are `powers` [B, N, BANDS]: non-negative least
        squares by multiplicative updates (Lee & Seung 2001)."""
        filters = self._filters
        wanted = powers @ filters
        found = wanted.clamp(min=TINY)
        for _ in range(SPREADING):
            found = found * wanted / (found @ filters.T @ filters + TINY)
        return found

    def _levels(self, sounds: Tensor) -> Tensor:
        """Twice the mean square of each part [B, N LEVELS]: 1 for a sine of amplitude 1."""
        return 2 * sounds.unflatten(1, (-1, self.downsample // LEVELS)).square().mean(2)

    def _with_levels(self, sounds: Tensor, levels: Tensor) -> Tensor:
        """The sounds with other levels; gains are interpolated between the middles of parts."""
        gains = (levels / self._levels(sounds).clamp(min=TINY)).sqrt().clamp(max=MOST_GAIN)
        size = sounds.shape[1]
        return sounds * F.interpolate(gains[:, None], size, mode="linear")[:, 0]

    def _griffin_lim(self, amplitudes: Tensor) -> Tensor:
        """Sounds [B, samples] with about these magnitudes [B, N, F]."""
        generator = torch_generator("griffin-lim phases", 0)
        phases = 2 * math.pi * torch.rand(amplitudes.shape[1:], generator=generator)
        spectra = torch.polar(amplitudes, phases.to(self._device).expand_as(amplitudes))
        before = torch.zeros_like(spectra)
        for _ in range(ITERATIONS):
            again = self._spectra(self._sounds(spectra))
            ahead = again + MOMENTUM * (again - before)
            before = again
            spectra = amplitudes * ahead / (ahead.abs() + TINY)
        return self._sounds(spectra)

    def _spectra(self, sounds: Tensor) -> Tensor:
        """Complex [B, N, F] of sounds [B, N d]; windows are centred on their latents."""
        padded = F.pad(sounds, (self.downsample * (OVERLAP - 1) // 2,) * 2)
        return torch.fft.rfft(padded.unfold(-1, len(self._window), self.downsample) * self._window)

    def _sounds(self, spectra: Tensor) -> Tensor:
        """The least-squares inverse of `_spectra` (Griffin & Lim 1984)."""
        count, size = spectra.shape[1], len(self._window)
        pieces = torch.fft.irfft(spectra, size) * self._window
        weights = self._window.square().expand(1, count, size)
        total, weight = (self._overlapped(x) for x in (pieces, weights))
        around = self.downsample * (OVERLAP - 1) // 2
        return (total / weight.clamp(min=1e-3))[:, around:-around]

    def _overlapped(self, pieces: Tensor) -> Tensor:
        """The sum [B, samples] of pieces [B, N, window], each a latent after the one before."""
        steps = pieces.unflatten(2, (OVERLAP, self.downsample)).unbind(2)
        later = [F.pad(x, (0, 0, n, OVERLAP - 1 - n)) for n, x in enumerate(steps)]
        return torch.stack(later).sum(0).flatten(1)


def _mel(frequency: float) -> float:
    return 2595 * math.log10(1 + frequency / 700)
