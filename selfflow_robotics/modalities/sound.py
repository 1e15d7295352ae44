"""Sound as the latents of an autoencoder, one token each."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from selfflow_robotics.autoencoders.latent import SoundAutoencoder
from selfflow_robotics.autoencoders.load import AutoencoderConfig, load_sound_autoencoder
from selfflow_robotics.batch import step_places
from selfflow_robotics.errors import UserError


@dataclass(frozen=True)
class SoundLatents:
    """Mono sounds float32 [B, samples] in [-1, 1] <-> tokens, one per latent.

    Places: alone, latent k has (k, 0, 0). Beside frames (`frame_rate`), it has (t, h, 0), where t
    is the number of the frame that is shown when the latent begins, and h counts the latents of
    that frame. So frames and sounds of the same moment have the same t, as rotary positions need
    it. With 25 latents and 12.5 frames per second, latents 0 to 3 have (0, 0, 0), (0, 1, 0),
    (1, 0, 0) and (1, 1, 0).

    Without an autoencoder (as in training on cached latents) it cannot encode or decode sounds.
    """

    kind: ClassVar[str] = "sound"
    prediction: ClassVar[Literal["velocity", "data"]] = "velocity"

    channels: int
    sample_rate: int  # Hz
    downsample: int  # samples per latent
    source: AutoencoderConfig = field(compare=False)  # as in `latents.Latents`
    fingerprint: str | None  # of the autoencoder; None: unknown
    # Frames per second beside the sound (latent frames, for video autoencoders); None: sound alone.
    frame_rate: float | None = None
    autoencoder: SoundAutoencoder | None = None

    def __post_init__(self) -> None:
        if self.frame_rate is not None and not 0 < self.frame_rate < math.inf:
            raise UserError(f"the frame rate beside a sound must be above 0, got {self.frame_rate}")

    @classmethod
    def create(
        cls,
        source: AutoencoderConfig,
        device: torch.device | str = "cpu",
        *,
        sample_rate: int | None = None,
        frame_rate: float | None = None,
    ) -> "SoundLatents":
        """Load the autoencoder of `source`. Raises UserError as `load_sound_autoencoder`."""
        autoencoder = load_sound_autoencoder(source, device, sample_rate)
        return cls(
            autoencoder.channels,
            autoencoder.sample_rate,
            autoencoder.downsample,
            replace(source, download=False),
            autoencoder.fingerprint,
            frame_rate,
            autoencoder,
        )

    def load(
        self, device: torch.device | str, weights: str | None = None, download: bool = False
    ) -> "SoundLatents":
        """A copy with its autoencoder, which is downloaded only with `download`.

        `weights` replaces it by another one without a check. Raises UserError if the autoencoder is
        missing, or is not the one that made the latents.
        """
        config = replace(self.source, weights=weights or self.source.weights, download=download)
        if weights is not None and config.source is None:
            raise UserError(f"autoencoder={config.kind} needs no autoencoder_weights")
        autoencoder = load_sound_autoencoder(config, device, self.sample_rate)
        if weights is None and self.fingerprint not in (None, autoencoder.fingerprint):
            raise UserError(
                f"{config.source or config.kind} is no longer the autoencoder that made these "
                "latents; pass the original one: autoencoder_weights=PATH"
            )
        if (autoencoder.channels, autoencoder.downsample) != (self.channels, self.downsample):
            raise UserError(
                f"the network makes latents of {self.channels} channels and {self.downsample} "
                f"samples, the autoencoder reads {autoencoder.channels} and "
                f"{autoencoder.downsample}; pass the one that the network was trained with"
            )
        return replace(self, autoencoder=autoencoder)

    @property
    def latents_per_s(self) -> float:
        return self.sample_rate / self.downsample

    @property
    def tokens_per_step(self) -> int:
        return 1

    @property
    def stride(self) -> int:
        return 1

    def count(self, seconds: float) -> int:
        """Latents that last `seconds`, rounded down. Raises UserError if not even one does."""
        count = math.floor(seconds * self.latents_per_s + 1e-6)
        if count < 1:
            raise UserError(f"{seconds} s of sound are shorter than one latent; take more")
        return count

    def places(self, count: int, first: int = 0) -> Tensor:
        """Places int64 [count, 3], as the class describes them."""
        places = step_places(count)
        if self.frame_rate is not None:
            numbers = torch.arange(count, dtype=torch.float64)
            # The margin keeps latents at the edge of a frame in it in spite of rounding.
            shown = torch.floor(numbers * self.frame_rate / self.latents_per_s + 1e-6).long()
            places[:, 0], places[:, 1] = shown, numbers.long() - torch.searchsorted(shown, shown)
        places[:, 0] += first
        return places

    def encode(self, raw: Tensor) -> Tensor:
        """Sounds float32 [B, N d] in [-1, 1] -> tokens float32 [B, N, C]; d samples per latent."""
        return self._ready().encode(raw)

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, C] -> sounds float32 [B, N d] in [-1, 1]."""
        return self._ready().decode(tokens)

    def _ready(self) -> SoundAutoencoder:
        if self.autoencoder is None:
            raise UserError("these latents have no autoencoder, so they cannot be decoded")
        return self.autoencoder

    def to_json(self) -> dict[str, Any]:
        names = ("channels", "sample_rate", "downsample", "fingerprint", "frame_rate")
        return {name: getattr(self, name) for name in names} | {
            "source": {"kind": self.source.kind, "weights": self.source.weights}
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "SoundLatents":
        return cls(
            record["channels"],
            record["sample_rate"],
            record["downsample"],
            AutoencoderConfig(**record["source"]),
            record["fingerprint"],
            record["frame_rate"],
        )
