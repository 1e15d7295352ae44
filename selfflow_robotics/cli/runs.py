"""Run folders: `runs/<name>/` with config.yaml, run.json, metrics.jsonl and checkpoints/."""

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from selfflow_robotics.errors import UserError
from selfflow_robotics.locks import hold
from selfflow_robotics.training.checkpoint import latest_checkpoint, resolve_checkpoint
from selfflow_robotics.training.distributed import ALONE, Ranks

Kind = Literal["pretrain", "images", "finetune"]

# Settings that may differ when a run goes on: they change how it goes, not where. (The training
# loop compares the precision itself, by what "auto" meant.)
ANY_VALUE = re.compile(
    r"threads|device|precision|encoder_download|(collect|play)\.(processes|timeout_s|simpler\..+)"
)

# What a start that was interrupted before its run.json leaves.
LEFTOVERS = {".lock", ".run.json"}


def runs_of_kind(kind: Kind, root: Path = Path("runs")) -> list[Path]:
    """The run folders under `root` whose run.json says `kind`, newest first.

    run.json is written by `open_run`: {"kind": ..., "created": ISO 8601 time}. Folders without a
    readable one are no runs.
    """
    found = []
    for path in sorted(root.glob("*/run.json")):
        run = _run_record(path.parent)
        if run.get("kind") == kind:
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


def run_folder(runs_dir: str, name: str) -> Path:
    """`runs_dir/name`. Raises UserError for a name that is no folder's own name."""
    if not name.strip() or name in (".", "..") or "/" in name:
        raise UserError(
            f"name='{name}' is no name for a folder in {runs_dir}; give another name=..."
        )
    return Path(runs_dir) / name


def open_run(kind: Kind, folder: Path, config: Any, ranks: Ranks = ALONE) -> Path:
    """Make or continue a run folder for a dataclass `config`; the first process does it for all.

    A run without any checkpoint has nothing to lose and takes the new configuration. Raises
    UserError when the folder holds anything but a run of this kind, a run of another configuration
    or one whose configuration cannot be read, another process works in it, or it cannot be written.
    """
    if not ranks.is_first:
        return folder
    settings = json.loads(json.dumps(asdict(config), default=str))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_strangers(folder, kind)
        hold(folder)
        if latest_checkpoint(folder):
            _refuse_other(folder, settings)
            return folder
        created = datetime.now(UTC).isoformat(timespec="seconds")
        begun = folder / ".run.json"  # a torn run.json would be a stranger's
        begun.write_text(json.dumps({"kind": kind, "created": created}) + "\n")
        begun.replace(folder / "run.json")
        (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    except OSError as error:
        raise UserError(
            f"cannot write the run folder {folder} ({error.strerror}); choose another runs_dir"
        ) from error
    return folder


def recorded_settings(run: Path) -> dict[str, Any]:
    """config.yaml of a run folder, as `open_run` wrote it; empty where there is no readable one."""
    try:
        text = (run / "config.yaml").read_text()
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            return {}  # `open_run` writes none, and they may go round in a circle
        settings = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
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


def _run_record(folder: Path) -> dict[str, Any]:
    """run.json of a folder; empty where there is no readable one."""
    try:
        run = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return run if isinstance(run, dict) else {}


def _refuse_strangers(folder: Path, kind: Kind) -> None:
    """Raise UserError where the folder holds something, but no run of this kind."""
    found = _run_record(folder).get("kind")
    if found == kind or {path.name for path in folder.iterdir()} <= LEFTOVERS:
        return
    if found in get_args(Kind):
        is_run, not_run = (f"{'an' if k == 'images' else 'a'} {k} run" for k in (found, kind))
        raise UserError(f"{folder} is {is_run}, not {not_run}; give this one another name=...")
    raise UserError(
        f"{folder} holds files and no run of ours (run.json is missing or damaged); give this run "
        "another name=..."
    )


def _refuse_other(folder: Path, now: dict[str, Any]) -> None:
    """Say which setting of an existing run differs from the one asked for."""
    old, new = _flat(recorded_settings(folder)), _flat(now)
    if not old:
        raise UserError(
            f"{folder}/config.yaml is missing or damaged; restore it or give this run another "
            "name=..."
        )
    changed = [
        key for key in new | old if old.get(key) != new.get(key) and not ANY_VALUE.fullmatch(key)
    ]
    if changed:
        key = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserError(
            f"{folder} holds a run with {key}={old.get(key)}, not {new.get(key)}{more}; "
            "give this one another name=..."
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value  # a damaged file may have keys that are no words
    return flat
