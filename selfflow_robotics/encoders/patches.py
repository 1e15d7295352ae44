"""Vision transformers of transformers and torch.hub as frozen encoders.

Images are resized so that each token of the requested grid covers a whole number of patches and the
size is close to the encoder's usual one. For 16 x 16 tokens and DINOv2 (224 px, patches of 14) that
is one patch per token, REPA's setting. Features are those of the last layer, normalised by the
encoder, without class and register tokens.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from selfflow_robotics.encoders.frames import pool_features, resize_frames
from selfflow_robotics.errors import UserError

# Defaults for models of torch.hub: ImageNet's statistics, and the usual size.
HUB_MEAN, HUB_STD, HUB_SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224
CLASS_TOKENS = 2  # maximum: DeiT has one for distillation besides the usual one

# Exceptions of third-party code for unsuitable images, files and names.
_UNFIT = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class VisionModel:
    """What is needed to use a vision transformer."""

    name: str  # as in the configuration
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
        except _UNFIT as error:
            raise UserError(
                f"encoder={vision.name} does not return patch features ({_short(error)}); use a "
                "plain vision transformer, such as dinov2-b"
            ) from error

    @torch.no_grad()
    def __call__(self, frames: Tensor, grid: tuple[int, int]) -> Tensor:
        """As `FrozenEncoder`."""
        vision = self._vision
        per_token = max(
            1, round(vision.size / vision.patch / min(grid))
        )  # patches along the side of a token
        rows, columns = (side * per_token for side in grid)
        pixels = resize_frames(
            frames.to(self._device), (rows * vision.patch, columns * vision.patch)
        )
        tokens = vision.tokens_of((pixels / 255 - self._mean) / self._std)
        extra = tokens.shape[1] - rows * columns  # they come first
        if not 0 <= extra <= vision.registers + CLASS_TOKENS:
            raise ValueError(f"{tokens.shape[1]} tokens of {rows} x {columns} patches")
        return pool_features(tokens[:, extra:], (rows, columns), grid)


def load_transformers(name: str, download: bool, device: torch.device) -> PatchEncoder:
    """A model of the transformers library, by its name on Hugging Face or from a folder.

    Raises UserError if the library, the files or the network are missing, or the model is
    unsuitable.
    """
    try:
        from transformers import AutoModel
        from transformers.image_processing_base import ImageProcessingMixin
        from transformers.utils import logging
    except ImportError:
        raise UserError(
            f"encoder=hf:{name} needs transformers: pip install 'selfflow_robotics[encoders]'; "
            "encoder=run:PATH needs no packages"
        ) from None
    where: dict[str, Any] = {"local_files_only": not download}
    verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its warnings about missing weights are errors below
    logging.disable_progress_bar()
    try:
        pictures, _ = ImageProcessingMixin.get_image_processor_dict(name, **where)
        loaded: Any = AutoModel.from_pretrained(
            name, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **where
        )
    except (*_UNFIT, ImportError, SafetensorError) as error:
        is_here = Path(name).is_dir() or not isinstance(error, OSError)
        raise _not_loaded(f"hf:{name}", is_here, download, error) from error
    finally:
        logging.set_verbosity(verbosity)
        if shows_progress:
            logging.enable_progress_bar()
    network, report = loaded
    # Poolers are trained for their own task and come after the patch features.
    missing = [key for key in report["missing_keys"] if "pooler" not in key]
    if unfit := [*missing, *(str(key) for key in report["mismatched_keys"])]:
        raise UserError(
            f"the weights of encoder=hf:{name} do not match config.json: {unfit[0]} is missing or "
            "has a different shape; download the files again"
        )
    network = getattr(network, "vision_model", network)  # of a pair with a text encoder
    network = network.eval().requires_grad_(False).to(device)
    takes = inspect.signature(network.forward).parameters
    options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
    try:
        vision = VisionModel(
            name=f"hf:{name}",
            tokens_of=lambda pixels: network(pixel_values=pixels, **options).last_hidden_state,
            patch=_side(network.config.patch_size),
            size=_picture_size(pictures, network.config),
            mean=tuple(pictures["image_mean"]),
            std=tuple(pictures["image_std"]),
            registers=getattr(network.config, "num_register_tokens", 0),
        )
    except _UNFIT as error:
        raise UserError(
            f"encoder=hf:{name} does not define its patch size or image statistics "
            f"({_short(error)}); use a plain vision transformer, such as dinov2-b"
        ) from error
    return PatchEncoder(vision, device)


def load_hub(repository: str, model: str, download: bool, device: torch.device) -> PatchEncoder:
    """A model of torch.hub: from a folder, or from a repository OWNER/NAME[:REF] on GitHub.

    This runs the repository's code. Raises UserError as `load_transformers`.
    """
    name = f"hub:{repository}:{model}"
    folder = _hub_folder(repository)
    if folder is None and not download:
        raise _not_loaded(name, False, False, None)
    try:
        if folder is None:
            quietly: dict[str, Any] = {"trust_repo": True, "verbose": False}
            network: Any = torch.hub.load(repository, model, **quietly)
        else:
            with _no_downloads(name, refuse=not download):
                network = torch.hub.load(str(folder), model, source="local")
        network = network.eval().requires_grad_(False).to(device)
        patch = _side(getattr(network, "patch_size", None) or network.patch_embed.patch_size)
    except (*_UNFIT, ImportError) as error:
        raise _not_loaded(name, not download, download, error) from error

    def tokens_of(pixels: Tensor) -> Tensor:
        features = network.forward_features(pixels)
        return features["x_norm_patchtokens"] if isinstance(features, dict) else features

    registers = getattr(network, "num_register_tokens", 0)
    return PatchEncoder(
        VisionModel(name, tokens_of, patch, HUB_SIZE, HUB_MEAN, HUB_STD, registers), device
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
        raise _not_loaded(name, False, False, None)

    before = torch.hub.download_url_to_file
    if refuse:
        torch.hub.download_url_to_file = refused
    try:
        yield
    finally:
        torch.hub.download_url_to_file = before


def _not_loaded(name: str, is_here: bool, download: bool, error: Exception | None) -> UserError:
    if is_here:
        return UserError(f"cannot read encoder={name} ({_short(error)}); check its files")
    if not download:
        return UserError(
            f"encoder={name} was not found; download it with encoder_download=true, or use a "
            "folder instead of its name"
        )
    return UserError(
        f"cannot download encoder={name} ({_short(error)}); check the name and the network "
        "connection, or use a folder instead of its name"
    )


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


def _short(error: Exception | None) -> str:
    return " ".join(str(error).split())[:200]
