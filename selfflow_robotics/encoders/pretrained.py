"""Load networks of the transformers library and of torch.hub, with errors of one line."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from selfflow_robotics.errors import UserError

# Exceptions of third-party code for unsuitable images, files and names.
UNFIT = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)


@contextmanager
def transformers_files(name: str, download: bool) -> Iterator[dict[str, Any]]:
    """Load parts of a model of the transformers library, by its name on Hugging Face or from a
    folder; yields the arguments of `from_pretrained` that say where from.

    Raises UserError if the library, the files or the network are missing or unsuitable.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(
            f"the encoder hf:{name} needs transformers: pip install 'selfflow_robotics[encoders]'; "
            "run:PATH needs no packages"
        ) from None
    logging = transformers.utils.logging
    verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its warnings about missing weights are errors of `whole`
    logging.disable_progress_bar()
    try:
        yield {"local_files_only": not download}
    except (*UNFIT, ImportError, SafetensorError) as error:
        is_here = Path(name).is_dir() or not isinstance(error, OSError)
        raise not_loaded(f"hf:{name}", is_here, download, error) from error
    finally:
        logging.set_verbosity(verbosity)
        if shows_progress:
            logging.enable_progress_bar()


def load_network(kind: Any, name: str, where: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A network of the class `kind` in float32 from safetensors, and what of it was missing; for
    `whole`."""
    return kind.from_pretrained(
        name, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **where
    )


def whole(loaded: tuple[Any, dict[str, Any]], name: str) -> Any:
    """The network of `load_network`, frozen. Raises UserError if weights were missing.

    Poolers are trained for their own task and come after the patch features.
    """
    network, report = loaded
    missing = [key for key in report["missing_keys"] if "pooler" not in key]
    if unfit := [*missing, *(str(key) for key in report["mismatched_keys"])]:
        raise UserError(
            f"the weights of the encoder hf:{name} do not match config.json: {unfit[0]} is missing "
            "or has a different shape; download the files again"
        )
    return network.eval().requires_grad_(False)


def not_loaded(name: str, is_here: bool, download: bool, error: Exception | None) -> UserError:
    """The error for a network that was not found (unless `is_here`) or cannot be read."""
    if is_here:
        return UserError(f"cannot read the encoder {name} ({short(error)}); check its files")
    if not download:
        return UserError(
            f"the encoder {name} was not found; allow its download (encoder_download=true in "
            "training, download=true in evaluations), or use a folder instead of its name"
        )
    return UserError(
        f"cannot download the encoder {name} ({short(error)}); check the name and the network "
        "connection, or use a folder instead of its name"
    )


def fingerprint(network: torch.nn.Module, *settings: object) -> str:
    """Equal for equal weights and settings, and for nothing else."""
    digest = hashlib.sha256(repr((type(network).__name__, *settings)).encode())
    for key, weight in sorted(network.state_dict().items()):
        digest.update(f"{key} {weight.dtype} {tuple(weight.shape)} ".encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def short(error: Exception | None) -> str:
    """The error in one line."""
    return " ".join(str(error).split())[:200]
