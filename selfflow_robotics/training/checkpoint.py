"""Checkpoints: a folder of safetensors and a JSON manifest, written atomically.

    checkpoints/step_0001000/
        model.safetensors       the student
        teacher.safetensors     its moving average, the copy that is evaluated
        optimizer.safetensors   optimizer state (only needed to resume)
        manifest.json           step, sizes and crc32c of the files, and the owner's `extra` record

Processes that share the weights (`train.parallel=fsdp`) write `shards/*.safetensors`, one each, in
place of the student's and the optimizer's file (`training.shards`).

Nothing is pickled, so loading an untrusted checkpoint runs no code. A folder gets its final name
once everything in it is on disk; checksums are verified before weights are used.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import google_crc32c
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selfflow_robotics.errors import UserError
from selfflow_robotics.json_file import read_json
from selfflow_robotics.training.shards import SHARDS, load_shards

Module = TypeVar("Module", bound=nn.Module)

FORMAT = 1
MANIFEST = "manifest.json"
MOST_STEPS = 10**9
MOST_RECORD_BYTES = 2**24  # of a JSON or YAML record; 100 000 class names take 2 MB


def save_checkpoint(
    folder: Path, step: int, parts: dict[str, dict[str, Tensor]], extra: dict[str, Any]
) -> Path:
    """Write `folder/step_NNNNNNN` with one safetensors file per part.

    Raises UserError if the folder cannot be written (full, read-only), without changing it.
    """
    temporary = unfinished(folder, step)
    with writing(temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, tensors in parts.items():
            write_part(temporary, name, tensors)
        return commit(temporary, step, extra)


def unfinished(folder: Path, step: int) -> Path:
    """The folder in which the checkpoint of a step is written, until it gets its name."""
    return folder / f".step_{step:07d}.tmp"


@contextmanager
def writing(temporary: Path) -> Iterator[None]:
    """Turn an error into a UserError, and remove the unfinished checkpoint."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"cannot write checkpoint {temporary}: {error}; free space or choose another run folder"
        ) from error


def write_part(temporary: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """Write one safetensors file of an unfinished checkpoint to disk."""
    path = temporary / f"{name}.safetensors"
    save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, path)
    _sync(path)


def commit(temporary: Path, step: int, extra: dict[str, Any]) -> Path:
    """Write the manifest of an unfinished checkpoint and give it its name."""
    files = {
        str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "crc32c": _crc32c(path)}
        for path in sorted(temporary.rglob("*.safetensors"))
    }
    manifest = {
        "format": FORMAT,
        "step": step,
        "files": files,
        "extra": extra,
        "extra_crc32c": _crc32c_of(extra),
    }
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in (temporary / MANIFEST, *{temporary / Path(file).parent for file in files}):
        _sync(path)
    final = temporary.with_name(f"step_{step:07d}")
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _sync(final.parent)
    return final


def latest_checkpoint(run: Path) -> Path | None:
    """The finished checkpoint with the highest step in a run folder, or None."""
    found = _finished(run / "checkpoints")
    return found[-1] if found else None


def check_manifests(run: Path) -> None:
    """Raise UserError if the newest checkpoint of a run folder has no manifest: it was finished,
    so going on from an older one, or from the start, would lose work."""
    latest = latest_checkpoint(run)
    newest = -1 if latest is None else _step_of(latest) or 0
    found = [path for path in (run / "checkpoints").glob("step_*") if path.is_dir()]
    last = max(found, key=lambda path: _step_of(path) or -1, default=None)
    if last is not None and (_step_of(last) or -1) > newest:
        raise UserError(
            f"{last} has lost its {MANIFEST}: restore it, or remove the folder to use an older "
            "checkpoint"
        )


def run_of(checkpoint: Path) -> Path:
    """The run folder of a checkpoint; the checkpoint's parent folder if it is not in a run."""
    is_in_run = checkpoint.parent.name == "checkpoints"
    return checkpoint.parent.parent if is_in_run else checkpoint.parent


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint folder `path`, or the last one of a run folder `path`.

    Raises UserError if there is none, or one of the run has lost its manifest.
    """
    if (path / MANIFEST).is_file():
        return path
    check_manifests(path)
    latest = latest_checkpoint(path) if path.is_dir() else None
    if latest is None:
        raise UserError(
            f"no checkpoint at {path}: pass a run folder or one of its checkpoints/step_* folders"
        )
    return latest


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder. Raises UserError if it is missing or unreadable."""
    path = checkpoint / MANIFEST
    try:
        manifest = read_json(path, MOST_RECORD_BYTES)
        if manifest["format"] != FORMAT:
            raise UserError(
                f"{path} has format {manifest['format']}, this version reads format {FORMAT}"
            )
        if manifest["extra_crc32c"] != _crc32c_of(manifest["extra"]):
            raise UserError(f"{path} was modified: its content does not match its checksum")
        for key, kind in (("step", int), ("files", dict), ("extra", dict)):
            if type(manifest[key]) is not kind:
                raise TypeError(f"{key} is not a {kind.__name__}")
        if not 0 <= manifest["step"] <= MOST_STEPS:
            raise ValueError(f"step is not from 0 to {MOST_STEPS}")
        if (named := _step_of(checkpoint)) not in (None, manifest["step"]):
            raise ValueError(f"step is {manifest['step']}, but the folder says {named}")
        for name, file in manifest["files"].items():
            if not {"bytes", "crc32c"} <= file.keys():
                raise KeyError(name)
        return manifest
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint at {checkpoint}: {MANIFEST} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); use another checkpoint") from error


def load_part(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one part, from its file or from the shards that processes wrote, after
    verifying size and checksum.

    Raises UserError if a file is missing, truncated or modified.
    """
    path, files = checkpoint / f"{name}.safetensors", read_manifest(checkpoint)["files"]
    shards = [file for file in files if file.startswith(f"{SHARDS}/")]
    if shards and path.name not in files:
        path = checkpoint / SHARDS
        for file in shards:
            _check_file(checkpoint / file, files[file])
    else:
        _check_file(path, files.get(path.name))
    try:
        return load_shards(path, name) if path.name == SHARDS else load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} has no tensors ({error}); use another checkpoint") from error


def check_files(checkpoint: Path) -> None:
    """Verify the size and checksum of every file in a checkpoint's manifest.

    Raises UserError for the first one that is missing, truncated or modified, and if the manifest
    is.
    """
    for name, expected in read_manifest(checkpoint)["files"].items():
        _check_file(checkpoint / name, expected)


def _check_file(path: Path, expected: dict[str, Any] | None) -> None:
    """Raise UserError unless the file has the size and checksum `expected`."""
    if expected is None or not path.is_file():
        raise UserError(f"{path} is missing, so the checkpoint is incomplete; use another one")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise UserError(
            f"{path} is truncated or modified: {size} bytes, but the manifest says "
            f"{expected['bytes']}; copy it again or use another checkpoint"
        )
    if (found := _crc32c(path)) != expected["crc32c"]:
        raise UserError(
            f"{path} is damaged: its checksum is {found}, but the manifest says "
            f"{expected['crc32c']}; copy it again or use another checkpoint"
        )


def load_module(build: Callable[[], Module], tensors: dict[str, Tensor], source: Path) -> Module:
    """The module created by `build`, with `tensors` as weights.

    Shapes are compared before memory is allocated. Raises UserError if they do not match or `build`
    fails.
    """
    try:
        with torch.device("meta"):
            planned = build().state_dict()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{source} describes an invalid network: {reason}") from error
    for name in {**planned, **tensors}:
        shapes = [tuple(part[name].shape) if name in part else None for part in (tensors, planned)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{source} does not match the model: '{name}' is {shapes[0] or 'missing'} in the "
                f"file, but {shapes[1] or 'missing'} in the network of its manifest"
            )
    module = build()
    load_weights(module, tensors, source)
    return module


def load_weights(module: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Strictly load `tensors`. Raises UserError naming the first key that does not match."""
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{source} does not match the model: {reason}") from error


@contextmanager
def resuming(run: Path) -> Iterator[None]:
    """Adds how to resume without the newest checkpoint if it cannot be read."""
    try:
        yield
    except UserError as error:
        *older, newest = _finished(run / "checkpoints")
        advice = "start again with another name=..."
        if older:
            advice = f"remove {newest} to resume from step {_step_of(older[-1])}"
        raise UserError(f"{error}: {advice}") from error


def prune_checkpoints(
    folder: Path,
    keep: int,
    keep_every: int = 0,
    is_needed: Callable[[int], bool] = lambda step: False,
) -> None:
    """Delete remains of interrupted saves, and all finished checkpoints but the newest `keep`,
    those whose step is a multiple of `keep_every` (0: none), and those whose step `is_needed`."""
    for stale in folder.glob(".step_*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    for old in _finished(folder)[:-keep]:
        step = _step_of(old) or 0
        if not is_needed(step) and (not keep_every or step % keep_every):
            # Half of a folder must not look like a checkpoint.
            shutil.rmtree(old.rename(folder / f".{old.name}.old.tmp"))


def _finished(folder: Path) -> list[Path]:
    """The finished checkpoints in a folder, by step (above 10^7, names are longer)."""
    found = [path.parent for path in folder.glob(f"step_*/{MANIFEST}")]
    steps = {path: step for path in found if (step := _step_of(path)) is not None}
    return sorted(steps, key=steps.__getitem__)


def _step_of(checkpoint: Path) -> int | None:
    """The step in the name of a checkpoint folder; None for other names."""
    number = checkpoint.name.removeprefix("step_")
    return int(number) if number != checkpoint.name and number.isdecimal() else None


def _crc32c(path: Path) -> str:
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum.update(block)
    return checksum.hexdigest().decode()


def _crc32c_of(record: Any) -> str:
    text = json.dumps(record, sort_keys=True)
    return google_crc32c.Checksum(text.encode()).hexdigest().decode()


def _sync(path: Path) -> None:
    """Force a file or folder to disk, so that a rename does not precede its data."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
