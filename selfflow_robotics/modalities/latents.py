"""Frames as patches of an autoencoder's latents."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import torch
from einops import rearrange
from torch import Tensor

from selfflow_robotics.autoencoders.latent import LatentAutoencoder, VideoAutoencoder
from selfflow_robotics.autoencoders.load import (
    AutoencoderConfig,
    load_autoencoder,
    load_video_autoencoder,
)
from selfflow_robotics.autoencoders.wan import STRIDE
from selfflow_robotics.batch import frame_places
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.pixels import PixelPatches


def patchify(latents: Tensor, patch: int) -> Tensor:
    """Latents [B, C, H, W] -> tokens [B, H W / patch^2, C patch^2], channels in (c p q) order."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpatchify(tokens: Tensor, patch: int, grid: tuple[int, int] | None = None) -> Tensor:
    """The inverse of `patchify`; `grid` is (rows, columns) of tokens, None: a square."""
    side = round(tokens.shape[1] ** 0.5)
    h, w = (side, side) if grid is None else grid
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=h, w=w, p=patch, q=patch)


def latents_per_token(patch: int, downsample: int) -> int:
    """The patch size in latents, from `patch` in px. Raises UserError if it is not an integer."""
    if patch < downsample or patch % downsample:
        raise UserError(
            f"a patch of {patch} px is not a whole number of latents of {downsample} px; choose "
            f"patch={downsample} or a multiple"
        )
    return patch // downsample


@dataclass(frozen=True)
class Latents(ABC):
    """Common parts of image and video latents.

    Without an autoencoder (as in training on cached latents) it cannot encode or decode frames.
    """

    kind: ClassVar[str]
    prediction: ClassVar[Literal["velocity", "data"]] = "velocity"

    latent_size: tuple[int, int]  # (height, width) of the latents
    latent_channels: int
    patch: int  # patch size, in latents
    # Which autoencoder, and where its weights are; the fingerprint tells whether two are the same.
    source: AutoencoderConfig = field(compare=False)
    fingerprint: str | None  # of the autoencoder; None: unknown
    downsample: int  # px per latent, on each side
    autoencoder: Any = None

    def __post_init__(self) -> None:
        if any(side % self.patch for side in self.latent_size):
            raise UserError(
                f"latents of {self.latent_size[0]} x {self.latent_size[1]} do not divide into "
                f"patches of {self.patch} x {self.patch}; change image_size or patch"
            )

    @classmethod
    def create(
        cls,
        source: AutoencoderConfig,
        image_size: tuple[int, int],
        patch: int,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load the autoencoder of `source`, for frames of `image_size` (height, width) px and
        tokens of `patch` x `patch` px.

        Raises UserError if it is missing or the sizes do not divide.
        """
        autoencoder = cls._load(source, device)
        down = autoencoder.downsample
        if any(side < down or side % down for side in image_size):
            raise UserError(
                f"frames of {image_size[0]} x {image_size[1]} px do not divide into latents of "
                f"{down} px; change image_size"
            )
        per_token = latents_per_token(patch, down)
        size = (image_size[0] // down, image_size[1] // down)
        known = replace(source, download=False)
        fingerprint = autoencoder.fingerprint
        return cls(size, autoencoder.channels, per_token, known, fingerprint, down, autoencoder)

    def load(
        self, device: torch.device | str, weights: str | None = None, download: bool = False
    ) -> Self:
        """A copy with its autoencoder, which is downloaded only with `download`.

        `weights` replaces it by another one without a check. Raises UserError if the autoencoder is
        missing, or is not the one that made the latents.
        """
        if self.source.kind == "pixel" and weights is not None:
            raise UserError("these latents are pixels; they need no autoencoder_weights")
        config = replace(self.source, weights=weights or self.source.weights, download=download)
        autoencoder = self._load(config, device)
        if weights is None and self.fingerprint not in (None, autoencoder.fingerprint):
            raise UserError(
                f"{config.source or config.kind} is no longer the autoencoder that made these "
                "latents; pass the original one: autoencoder_weights=PATH"
            )
        if autoencoder.channels != self.latent_channels:
            raise UserError(
                f"the network makes latents of {self.latent_channels} channels, the autoencoder "
                f"reads {autoencoder.channels}; pass the one that the network was trained with"
            )
        return replace(self, autoencoder=autoencoder)

    @classmethod
    @abstractmethod
    def _load(cls, config: AutoencoderConfig, device: torch.device | str) -> Any: ...

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per frame (rows, columns)."""
        return self.latent_size[0] // self.patch, self.latent_size[1] // self.patch

    @property
    def tokens_per_step(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def channels(self) -> int:
        return self.latent_channels * self.patch**2

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the frames in pixels."""
        return self.latent_size[0] * self.downsample, self.latent_size[1] * self.downsample

    @property
    def stride(self) -> int:
        return 1

    def view(self, raw: Tensor) -> Tensor | None:
        """None: the network reads only the latents."""
        return None

    def places(self, count: int, first: int = 0) -> Tensor:
        return frame_places(self.grid, count, first)

    def to_tokens(self, latents: Tensor) -> Tensor:
        """Latents [B, T, C, H, W] -> tokens float32 [B, T N, C patch^2].

        Raises UserError if their shape does not match.
        """
        if tuple(latents.shape[2:]) != (self.latent_channels, *self.latent_size):
            raise UserError(
                f"latents are {tuple(latents.shape[2:])}, the model was made for "
                f"{(self.latent_channels, *self.latent_size)}; encode the frames at its size, or "
                "train a model at theirs"
            )
        tokens = patchify(latents.flatten(0, 1).float(), self.patch)
        return tokens.reshape(len(latents), -1, tokens.shape[-1])

    def to_latents(self, tokens: Tensor) -> Tensor:
        """The inverse of `to_tokens`."""
        frames = tokens.reshape(-1, self.tokens_per_step, tokens.shape[-1])
        return unpatchify(frames, self.patch, self.grid).unflatten(0, (len(tokens), -1))

    def _ready(self) -> Any:
        if self.autoencoder is None:
            raise UserError("these latents have no autoencoder, so they cannot be decoded")
        return self.autoencoder

    def _checked(self, raw: Tensor) -> Tensor:
        if tuple(raw.shape[2:]) != (*self.image_size, 3):
            raise UserError(
                f"frames are {tuple(raw.shape[2:])}, the model was made for "
                f"{(*self.image_size, 3)}; resize them or train at their size"
            )
        return raw

    def to_json(self) -> dict[str, Any]:
        names = ("latent_size", "latent_channels", "patch", "fingerprint", "downsample")
        return {name: getattr(self, name) for name in names} | {
            "source": {"kind": self.source.kind, "weights": self.source.weights}
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        return cls(
            tuple(record["latent_size"]),
            record["latent_channels"],
            record["patch"],
            AutoencoderConfig(**record["source"]),
            record["fingerprint"],
            record["downsample"],
        )


@dataclass(frozen=True)
class ImageLatents(Latents):
    """Frames uint8 <-> patches of each frame's latents."""

    kind: ClassVar[str] = "image_latents"

    autoencoder: LatentAutoencoder | None = None

    @classmethod
    def _load(cls, config: AutoencoderConfig, device: torch.device | str) -> LatentAutoencoder:
        return load_autoencoder(config, device)

    def encode(self, raw: Tensor) -> Tensor:
        """Frames uint8 [B, T, H, W, 3] -> tokens [B, T N, C], the posterior's means."""
        mean, _ = self._ready().encode(self._checked(raw).flatten(0, 1))
        return self.to_tokens(mean.unflatten(0, raw.shape[:2]))

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T N, C] -> uint8 [B, T, H, W, 3]."""
        latents = self.to_latents(tokens)
        frames = self._ready().decode(latents.flatten(0, 1))
        return frames.unflatten(0, latents.shape[:2])


@dataclass(frozen=True)
class LatentsBehindPixels(ImageLatents):
    """Latents, with the pixels of clean frames as additional input (model.frames=mixed).

    So a policy sees details that a small autoencoder blurs (which way a can lies). Tokens have few
    channels and most of a frame stays the same, so frames are predicted as data, later ones as a
    change of the first.
    """

    kind: ClassVar[str] = "latents_behind_pixels"
    prediction: ClassVar[Literal["velocity", "data"]] = "data"

    @property
    def view_patch(self) -> int:
        """Patch size in px."""
        return self.patch * self.downsample

    def view(self, raw: Tensor) -> Tensor:
        return PixelPatches(self.image_size, self.view_patch).encode(raw)


@dataclass(frozen=True)
class VideoLatents(Latents):
    """Clips uint8 <-> patches of video latents: T frames become 1 + (T - 1) / stride latent frames.

    `places` and `tokens_per_step` count latent frames. The first one depends only on the first
    frame, so that can be encoded by itself.
    """

    kind: ClassVar[str] = "video_latents"

    autoencoder: VideoAutoencoder | None = None

    @property
    def stride(self) -> int:
        return STRIDE

    @classmethod
    def _load(cls, config: AutoencoderConfig, device: torch.device | str) -> VideoAutoencoder:
        return load_video_autoencoder(config, device)

    def encode(self, raw: Tensor) -> Tensor:
        """Clips uint8 [B, T, H, W, 3] -> tokens [B, T' N, C], the posterior's means.

        Raises UserError unless T - 1 is a multiple of the stride.
        """
        return self.to_tokens(self._ready().encode(self._checked(raw)))

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T' N, C] -> uint8 [B, T, H, W, 3]."""
        return self._ready().decode(self.to_latents(tokens))
