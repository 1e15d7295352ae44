"""Vision transformers of transformers and torch.hub as frozen encoders.

Images are resized so that each token of the requested grid covers a whole number of patches and the
size is close to the encoder's usual one. For 16 x 16 tokens and DINOv2 (224 px, patches of 14) that
is one patch per token, REPA's setting. Features are those of the last layer, normalised by the
encoder, without class and register tokens; those of a whole image are the class token.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfflow_robotics.encoders.frames import pool_features, resize_frames
from selfflow_robotics.encoders.pretrained import (
    UNFIT,
    fingerprint,
    load_network,
    not_loaded,
    short,
    transformers_files,
    whole,
)
from selfflow_robotics.errors import UserError

# Defaults for models of torch.hub: ImageNet's statistics, and the usual size.
HUB_MEAN, HUB_STD, HUB_SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224
CLASS_TOKENS = 2  # maximum: DeiT has one for distillation besides the usual one


@dataclass(frozen=True)
class VisionModel:
    """What is needed to use a vision transformer."""

    name: str  # as in the configuration
    network: torch.nn.Module
    tokens_of: Callable[
        [Tensor], Tensor
    ]  # pixels [B, 3, H, W], normalised -> [B, extra + patches, D]
    patch: int  # px
    size: int  # px, shorter side of its usual input
    mean: tuple[float, ...]  # of pixels in [0, 1], per channel
    std: tuple[float, ...]
    registers: int = 0  # tokens that may precede the patches, besides class tokens


class PatchEncoder:
    """A vision transformer as a `encoders.load.FrozenEncoder`."""

    def __init__(self, vision: VisionModel, device: torch.device) -> None:
        """Raises UserError if the network does not return patch features at any size."""
        self._vision, self._device = vision, device
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, -1, 1, 1)
            for values in (vision.mean, vision.std)
        )
        blank = torch.zeros(1, vision.size, vision.size, 3, dtype=torch.uint8, device=device)
        try:
            self.channels = self(blank, (2, 3)).shape[-1]
        except UNFIT as error:
            raise UserError(
                f"the encoder {vision.name} does not return patch features ({short(error)}); use a "
                "plain vision transformer, such as dinov2-b"
            ) from error

    @property
    def fingerprint(self) -> str:
        """As `FrozenEncoder`."""
        vision = self._vision
        return fingerprint(vision.network, vision.patch, vision.size, vision.mean, vision.std)

    @torch.no_grad()
    def __call__(self, frames: Tensor, grid: tuple[int, int]) -> Tensor:
        """As `FrozenEncoder`."""
        vision = self._vision
        per_token = max(
            1, round(vision.size / vision.patch / min(grid))
        )  # patches along the side of a token
        rows, columns = (side * per_token for side in grid)
        tokens, extra = self._tokens(frames, rows, columns)
        return pool_features(tokens[:, extra:], (rows, columns), grid)

    @torch.no_grad()
    def pooled(self, frames: Tensor) -> Tensor:
        """As `FrozenEncoder`: the class token at the usual size; without one, the patches' mean."""
        side = round(self._vision.size / self._vision.patch)
        tokens, extra = self._tokens(frames, side, side)
        return (tokens[:, 0] if extra else tokens.mean(dim=1)).float()

    def _tokens(self, frames: Tensor, rows: int, columns: int) -> tuple[Tensor, int]:
        """All tokens for rows x columns patches, and how many others come before the patches'."""
        vision = self._vision
        size = (rows * vision.patch, columns * vision.patch)
        pixels = resize_frames(frames.to(self._device), size)
        tokens = vision.tokens_of((pixels / 255 - self._mean) / self._std)
        extra = tokens.shape[1] - rows * columns
        if not 0 <= extra <= vision.registers + CLASS_TOKENS:
            raise ValueError(f"{tokens.shape[1]} tokens of {rows} x {columns} patches")
        return tokens, extra


def load_transformers(name: str, download: bool, device: torch.device) -> PatchEncoder:
    """A model of the transformers library, by its name on Hugging Face or from a folder.

    Raises UserError if the library, the files or the network are missing, or the model is
    unsuitable.
    """
    with transformers_files(name, download) as where:
        from transformers import AutoModel
        from transformers.image_processing_base import ImageProcessingMixin

        pictures, _ = ImageProcessingMixin.get_image_processor_dict(name, **where)
        loaded = load_network(AutoModel, name, where)
    network = whole(loaded, name)
    network = getattr(network, "vision_model", network)  # of a pair with a text encoder
    network = network.to(device)
    takes = inspect.signature(network.forward).parameters
    options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
    try:
        vision = VisionModel(
            name=f"hf:{name}",
            network=network,
            tokens_of=lambda pixels: network(pixel_values=pixels, **options).last_hidden_state,
            patch=_side(network.config.patch_size),
            size=_picture_size(pictures, network.config),
            mean=tuple(pictures["image_mean"]),
            std=tuple(pictures["image_std"]),
            registers=getattr(network.config, "num_register_tokens", 0),
        )
    except UNFIT as error:
        raise UserError(
            f"the encoder hf:{name} does not define its patch size or image statistics "
            f"({short(error)}); use a plain vision transformer, such as dinov2-b"
        ) from error
    return PatchEncoder(vision, device)


def load_hub(repository: str, model: str, download: bool, device: torch.device) -> PatchEncoder:
    """A model of torch.hub: from a folder, or from a repository OWNER/NAME[:REF] on GitHub.

    This runs the repository's code. Raises UserError as `load_transformers`.
    """
    name = f"hub:{repository}:{model}"
    folder = _hub_folder(repository)
    if folder is None and not download:
        raise not_loaded(name, False, False, None)
    try:
        if folder is None:
            quietly: dict[str, Any] = {"trust_repo": True, "verbose": False}
            network: Any = torch.hub.load(repository, model, **quietly)
        else:
            with _no_downloads(name, refuse=not download):
                network = torch.hub.load(str(folder), model, source="local")
        network = network.eval().requires_grad_(False).to(device)
        patch = _side(getattr(network, "patch_size", None) or network.patch_embed.patch_size)
    except (*UNFIT, ImportError) as error:
        raise not_loaded(name, not download, download, error) from error

    def tokens_of(pixels: Tensor) -> Tensor:
        features = network.forward_features(pixels)
        if not isinstance(features, dict):
            return features
        patches, of_class = features["x_norm_patchtokens"], features.get("x_norm_clstoken")
        return patches if of_class is None else torch.cat([of_class[:, None], patches], dim=1)

    registers = getattr(network, "num_register_tokens", 0)
    return PatchEncoder(
        VisionModel(name, network, tokens_of, patch, HUB_SIZE, HUB_MEAN, HUB_STD, registers), device
    )


def _hub_folder(repository: str) -> Path | None:
    """The folder of a repository: itself, or torch.hub's copy."""
    if Path(repository).is_dir():
        return Path(repository)
    owner_name, _, ref = repository.partition(":")
    kept = f"{owner_name}_{ref or '*'}".replace("/", "_")
    return next(iter(sorted(Path(torch.hub.get_dir()).glob(kept))), None)


@contextmanager
def _no_downloads(name: str, refuse: bool) -> Iterator[None]:
    """Stop torch.hub from downloading if requested; a repository's code calls it for weights."""

    def refused(url: str, *_: Any, **__: Any) -> None:
        raise not_loaded(name, False, False, None)

    before = torch.hub.download_url_to_file
    if refuse:
        torch.hub.download_url_to_file = refused
    try:
        yield
    finally:
        torch.hub.download_url_to_file = before


def _picture_size(pictures: dict[str, Any], config: Any) -> int:
    """The shorter side (px) after an image processor's resizing."""
    size = pictures.get("crop_size") or pictures.get("size") or config.image_size
    if isinstance(size, dict):
        size = size.get("shortest_edge") or (size["height"], size["width"])
    return size if isinstance(size, int) else min(size)


def _side(patch: int | tuple[int, int] | list[int]) -> int:
    """The side (px) of square patches. Raises ValueError for others."""
    sides = {patch} if isinstance(patch, int) else set(patch)
    if len(sides) != 1:
        raise ValueError(f"patches are {patch} px")
    return sides.pop()
