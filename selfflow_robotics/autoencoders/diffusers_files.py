"""Load networks of diffusers from their two files, config.json and the weights in safetensors.

Without download=true only local files are used: a folder with both, or a name in Hugging Face's
cache. Pickled weights are never read, and every weight must match.
"""

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from selfflow_robotics.errors import UserError
from selfflow_robotics.finite import check_finite
from selfflow_robotics.json_file import read_json

FILES = ["config.json", "diffusion_pytorch_model.safetensors"]


@dataclass(frozen=True)
class DiffusersNetwork:
    """A class of diffusers, and what is needed to read its files."""

    kind: str  # as in autoencoder=KIND
    class_name: str
    packages: tuple[str, ...]  # packages that it needs
    extra: str  # this project's extra that installs them
    # Renamed parts of weight names, old to new: files and libraries may use either.
    renamed: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()  # weights that files may contain but the class computes itself
    subfolder: str = ""  # subfolder of the autoencoder in a whole pipeline
    instead: str = "pixel"  # the kind that needs nothing

    def load(self, weights: str, download: bool) -> Any:
        """The network from a folder or a name, on the CPU, in float32.

        Raises UserError if a package, the weights or the connection are missing, or if the files
        are damaged, not finite or belong to another class.
        """
        network_class = self._class()
        return self._read(network_class, _folder(weights, self.subfolder, download), weights)

    def fingerprint(self, network: Any) -> str:
        """A hash of the settings (without diffusers' private ones) and all weights."""
        settings = {k: v for k, v in network.config.items() if not k.startswith("_")}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        named = {self._new_name(name): weight for name, weight in network.state_dict().items()}
        for name, weight in sorted(named.items()):
            digest.update(f"{name} {tuple(weight.shape)} ".encode())
            digest.update(weight.detach().cpu().float().contiguous().numpy())
        return digest.hexdigest()

    def _class(self) -> Any:
        try:
            if any(importlib.util.find_spec(name) is None for name in self.packages):
                raise ImportError
            import diffusers

            return getattr(diffusers, self.class_name)
        except (ImportError, AttributeError):  # the latter: diffusers is too old
            raise UserError(
                f"autoencoder={self.kind} needs {' and '.join(self.packages)}: pip install "
                f"'selfflow_robotics[{self.extra}]'; autoencoder={self.instead} needs no packages"
            ) from None

    def _read(self, network_class: Any, folder: Path, weights: str) -> Any:
        try:
            settings = read_json(folder / FILES[0])
            found = settings["_class_name"]
            if found != self.class_name:
                raise UserError(
                    f"{weights} has class {found}; autoencoder={self.kind} needs diffusers' "
                    f"{self.class_name}"
                )
            network = network_class.from_config(settings)
            own = {self._new_name(name): name for name in network.state_dict()}
            state = {
                own.get(self._new_name(name), name): weight
                for name, weight in load_file(folder / FILES[1]).items()
                if name not in self.unused
            }
            missing, unknown = network.load_state_dict(state, strict=False)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"cannot read the autoencoder in {folder} ({reason}); it needs "
                f"{' and '.join(FILES)}"
            ) from error
        if unfit := [*missing, *unknown]:
            raise UserError(
                f"the weights in {folder} do not match config.json: {unfit[0]} is missing or "
                "unknown; download both files again"
            )
        check_finite(state, f"the weights in {folder}")
        return network

    def _new_name(self, name: str) -> str:
        for old, new in self.renamed.items():
            name = name.replace(old, new)
        return name


def _folder(weights: str, subfolder: str, download: bool) -> Path:
    """The folder with the files of `weights`, downloaded to Hugging Face's cache if requested."""
    if Path(weights).is_dir():
        return _inner(Path(weights), subfolder)
    from huggingface_hub import snapshot_download  # diffusers needs it, and diffusers is here

    wanted = [*FILES, *(f"{subfolder}/{name}" for name in FILES if subfolder)]
    try:
        root = snapshot_download(weights, allow_patterns=wanted, local_files_only=not download)
        return _inner(Path(root), subfolder)
    except (OSError, ValueError) as error:
        if not download:
            raise UserError(
                f"the autoencoder's weights '{weights}' were not found; download them with "
                "download=true, or pass the folder that contains them"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot download the autoencoder's weights '{weights}' ({reason}); check the name "
            "and the network connection, or pass the folder that contains them"
        ) from error


def _inner(folder: Path, subfolder: str) -> Path:
    """The folder itself, or the autoencoder's subfolder in a pipeline."""
    return folder if (folder / FILES[0]).exists() else folder / subfolder
