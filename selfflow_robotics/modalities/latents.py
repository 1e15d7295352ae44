"""Frames as the latents of an image autoencoder, in square patches."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor

from selfflow_robotics.autoencoders.latent import LatentAutoencoder
from selfflow_robotics.autoencoders.load import AutoencoderConfig, load_autoencoder
from selfflow_robotics.batch import frame_places
from selfflow_robotics.errors import UserError


def patchify(latents: Tensor, patch: int) -> Tensor:
    """Latents [B, C, H, W] -> tokens [B, H W / patch^2, C patch^2], channels in (c p q) order."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpatchify(tokens: Tensor, patch: int, grid: tuple[int, int] | None = None) -> Tensor:
    """The inverse of `patchify`; `grid` is (vertical, horizontal) tokens, None: a square."""
    side = round(tokens.shape[1] ** 0.5)
    h, w = (side, side) if grid is None else grid
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=h, w=w, p=patch, q=patch)


@dataclass(frozen=True)
class ImageLatents:
    """Frames uint8 <-> tokens of the latents of each frame.

    Without an autoencoder (training on a cache of latents) it patches and knows places, but can
    neither encode nor decode.
    """

    kind: ClassVar[str] = "image_latents"
    prediction: ClassVar[Literal["velocity", "data"]] = "velocity"

    latent_size: tuple[int, int]  # (height, width) of the latents
    latent_channels: int
    patch: int
    source: AutoencoderConfig  # where the autoencoder's weights are
    fingerprint: str | None  # of the autoencoder; None: not known
    autoencoder: LatentAutoencoder | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens (vertically, horizontally)."""
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
        height, width = (side * self._autoencoder().downsample for side in self.latent_size)
        return height, width

    def load(
        self, device: torch.device | str, weights: str | None = None, download: bool = False
    ) -> "ImageLatents":
        """The same with its autoencoder, which is fetched only if `download`.

        `weights` name another decoder, on the user's own word. Raises UserError where it is missing
        or not the one that the latents were made with.
        """
        if self.source.kind == "pixel" and weights is not None:
            raise UserError("these latents are pixels; they need no autoencoder_weights")
        config = replace(self.source, weights=weights or self.source.weights, download=download)
        autoencoder = load_autoencoder(config, device)
        if weights is None and self.fingerprint not in (None, autoencoder.fingerprint):
            raise UserError(
                f"{config.source or config.kind} is not the autoencoder any more that these "
                "latents were made with; give that one: autoencoder_weights=PATH"
            )
        if autoencoder.channels != self.latent_channels:
            raise UserError(
                f"the network makes latents of {self.latent_channels} channels, the autoencoder "
                f"reads {autoencoder.channels}; give the one that it was trained with"
            )
        return replace(self, autoencoder=autoencoder)

    def places(self, count: int, first: int = 0) -> Tensor:
        return frame_places(self.grid, count, first)

    def to_tokens(self, latents: Tensor) -> Tensor:
        """Latents [B, T, C, H, W] -> tokens [B, T N, C patch^2]."""
        tokens = patchify(latents.flatten(0, 1), self.patch)
        return tokens.reshape(len(latents), -1, tokens.shape[-1])

    def to_latents(self, tokens: Tensor) -> Tensor:
        """The inverse of `to_tokens`."""
        frames = tokens.reshape(-1, self.tokens_per_step, tokens.shape[-1])
        return unpatchify(frames, self.patch, self.grid).unflatten(0, (len(tokens), -1))

    def encode(self, raw: Tensor) -> Tensor:
        """Frames uint8 [B, T, H, W, 3] -> tokens [B, T N, C], the posterior's means."""
        mean, _ = self._autoencoder().encode(raw.flatten(0, 1))
        return self.to_tokens(mean.unflatten(0, raw.shape[:2]))

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T N, C] -> uint8 [B, T, H, W, 3]."""
        latents = self.to_latents(tokens)
        frames = self._autoencoder().decode(latents.flatten(0, 1))
        return frames.unflatten(0, latents.shape[:2])

    def _autoencoder(self) -> LatentAutoencoder:
        if self.autoencoder is None:
            raise UserError("these latents have no autoencoder to turn them into images")
        return self.autoencoder

    def to_json(self) -> dict[str, Any]:
        names = ("latent_size", "latent_channels", "patch", "fingerprint")
        return {name: getattr(self, name) for name in names} | {
            "source": {"kind": self.source.kind, "weights": self.source.weights}
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "ImageLatents":
        return cls(
            tuple(record["latent_size"]),
            record["latent_channels"],
            record["patch"],
            AutoencoderConfig(**record["source"]),
            record["fingerprint"],
        )
