"""Networks of diffusers out of their two files, config.json and the weights in safetensors.

They are looked for on this machine only, unless a download is asked for: a folder that holds both,
or a name that Hugging Face's cache holds. Pickled weights are never read; every weight must fit.
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
from selfflow_robotics.json_file import read_json

FILES = ["config.json", "diffusion_pytorch_model.safetensors"]


@dataclass(frozen=True)
class DiffusersNetwork:
    """A class of diffusers, and what has to be known to read files of it."""

    kind: str  # as in autoencoder=KIND
    class_name: str
    packages: tuple[str, ...]  # that it needs
    extra: str  # of ours, which installs them
    # Parts of the weights' names that have changed, old to new: files and libraries carry either.
    renamed: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()  # weights that files may hold and the class makes itself
    subfolder: str = ""  # of a whole pipeline, where its autoencoder may be

    def load(self, weights: str, download: bool) -> Any:
        """The network of a folder or a name, on the CPU, in float32.

        Raises UserError where a package, the weights or the connection are missing, and for files
        that are damaged or belong to another class.
        """
        network_class = self._class()
        return self._read(network_class, _folder(weights, self.subfolder, download), weights)

    def fingerprint(self, network: Any) -> str:
        """A hash of the settings (without what diffusers notes for itself) and every weight."""
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
        except (ImportError, AttributeError):  # the latter: of a version before the class
            raise UserError(
                f"autoencoder={self.kind} needs {' and '.join(self.packages)}: pip install "
                f"'selfflow_robotics[{self.extra}]'; autoencoder=pixel needs nothing"
            ) from None

    def _read(self, network_class: Any, folder: Path, weights: str) -> Any:
        try:
            settings = read_json(folder / FILES[0])
            found = settings["_class_name"]
            if found != self.class_name:
                raise UserError(
                    f"{weights} is of class {found}; autoencoder={self.kind} needs diffusers' "
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
                f"the weights in {folder} do not fit their config.json: {unfit[0]} is missing or "
                "unknown; get both files again"
            )
        return network

    def _new_name(self, name: str) -> str:
        for old, new in self.renamed.items():
            name = name.replace(old, new)
        return name


def _folder(weights: str, subfolder: str, download: bool) -> Path:
    """The folder that holds the files of `weights`, downloaded into Hugging Face's cache if so
    asked."""
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
                f"the autoencoder's weights '{weights}' are not on this machine; download=true "
                "fetches them, or give a folder that holds them"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot download the autoencoder's weights '{weights}' ({reason}); check the name and "
            "the network, or give a folder that holds them"
        ) from error


def _inner(folder: Path, subfolder: str) -> Path:
    """The folder itself, or that part of a pipeline's folder which holds the autoencoder."""
    return folder if (folder / FILES[0]).exists() else folder / subfolder
