"""Run folders: `runs/<name>/` with config.yaml, run.json, metrics.jsonl and checkpoints/."""

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from selfflow_robotics.errors import UserError
from selfflow_robotics.locks import hold
from selfflow_robotics.training.checkpoint import latest_checkpoint, resolve_checkpoint
from selfflow_robotics.training.distributed import ALONE, Ranks

Kind = Literal["pretrain", "images", "finetune"]

# Settings that may differ when a run goes on: they change how it goes, not where.
ANY_VALUE = re.compile(r"threads|encoder_download|(collect|play)\.(processes|simpler\..+)")


def runs_of_kind(kind: Kind, root: Path = Path("runs")) -> list[Path]:
    """The run folders under `root` whose run.json says `kind`, newest first.

    run.json is written by `open_run`: {"kind": ..., "created": ISO 8601 time}. Folders without a
    readable one are no runs.
    """
    found = []
    for path in sorted(root.glob("*/run.json")):
        try:
            run = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(run, dict) and run.get("kind") == kind:
            found.append((str(run.get("created", "")), path.parent))
    return [folder for _, folder in sorted(found, reverse=True)]


def find_checkpoint(given: str | None, kind: Kind, root: Path = Path("runs")) -> Path:
    """The checkpoint folder to use: `given` itself, the last one of a run folder `given`, or
    the last one of the newest run of this kind that has any. Raises UserError if there is none."""
    if given:
        return resolve_checkpoint(Path(given))
    for run in runs_of_kind(kind, root):
        if checkpoint := latest_checkpoint(run):
            return checkpoint
    raise UserError(
        f"no {kind} run in {root}/ has a checkpoint; train one or give --checkpoint PATH"
    )


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in; the checkpoint's own folder if it is in none."""
    is_in_run = checkpoint.parent.name == "checkpoints"
    return checkpoint.parent.parent if is_in_run else checkpoint.parent


def open_run(kind: Kind, folder: Path, config: Any, ranks: Ranks = ALONE) -> Path:
    """Make or continue a run folder for a dataclass `config`; the first process does it for all.

    A run without any checkpoint has nothing to lose and takes the new configuration. Raises
    UserError when the folder holds a run of another configuration, another process works in it, or
    it cannot be written.
    """
    if not ranks.is_first:
        return folder
    settings = json.loads(json.dumps(asdict(config), default=str))
    record = folder / "config.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hold(folder)
        if latest_checkpoint(folder):
            before = yaml.safe_load(record.read_text()) if record.exists() else {}
            _refuse_other(folder, before, settings)
            return folder
        created = datetime.now(UTC).isoformat(timespec="seconds")
        (folder / "run.json").write_text(json.dumps({"kind": kind, "created": created}) + "\n")
        record.write_text(yaml.safe_dump(settings, sort_keys=False))
    except OSError as error:
        raise UserError(
            f"cannot write the run folder {folder} ({error.strerror}); choose another runs_dir"
        ) from error
    return folder


def recorded_settings(run: Path) -> dict[str, Any]:
    """config.yaml of a run folder, as `open_run` wrote it; empty where there is no readable one."""
    try:
        settings = yaml.safe_load((run / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return settings if isinstance(settings, dict) else {}


def open_results(given: str | None, checkpoint: Path, name: str) -> Path:
    """The folder `given`, or `eval/name` of the checkpoint's run, made and held by this process.

    Raises UserError where it cannot be written or another process works in it.
    """
    folder = Path(given) if given else run_of(checkpoint) / "eval" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hold(folder)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}); choose output=..."
        ) from error
    return folder


def _refuse_other(folder: Path, before: Any, now: dict[str, Any]) -> None:
    """Say which setting of an existing run differs from the one asked for."""
    old, new = _flat(before if isinstance(before, dict) else {}), _flat(now)
    changed = [
        key for key in new | old if old.get(key) != new.get(key) and not ANY_VALUE.fullmatch(key)
    ]
    if changed:
        key = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserError(
            f"{folder} holds a run with {key}={old.get(key)}, not {new.get(key)}{more}; "
            "give this one another name=..., or remove that folder"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
