"""Run folders: `runs/<name>/` with config.yaml, run.json, metrics.jsonl and checkpoints/."""

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from selfflow_robotics.errors import UserError
from selfflow_robotics.json_file import read_json, read_text
from selfflow_robotics.locks import hold
from selfflow_robotics.training.checkpoint import (
    MOST_RECORD_BYTES,
    latest_checkpoint,
    read_manifest,
    resolve_checkpoint,
    resuming,
    run_of,
)
from selfflow_robotics.training.distributed import ALONE, Ranks

Kind = Literal["pretrain", "images", "finetune", "autoencoder"]

# Settings that may differ when a run goes on: where it and its data lie (`continue_run` compares
# what these hold), how long it trains, and how it is computed and watched. (The training loop
# compares the precision itself, by what "auto" meant.)
ANY_VALUE = re.compile(
    r"name|runs_dir|data|play_data|root|(collect|play)\.(root|processes|timeout_s|simpler\..+)"
    r"|train\.(steps|log_every|save_every|sample_every|keep_checkpoints)"
    r"|threads|device|precision|encoder_download"
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_strangers(folder, kind)
        hold(folder)
        if latest_checkpoint(folder):
            _refuse_other(folder, _settings(config))
            return folder
        created = datetime.now(UTC).isoformat(timespec="seconds")
        begun = folder / ".run.json"  # a torn run.json would be a stranger's
        begun.write_text(json.dumps({"kind": kind, "created": created}) + "\n")
        begun.replace(folder / "run.json")
        _write_settings(folder, config)
    except OSError as error:
        raise _not_writable(folder, error) from error
    return folder


def continue_run(run: Path, config: Any, data: dict[str, str], ranks: Ranks = ALONE) -> None:
    """Record the settings with which a run goes on, after comparing its data by content.

    `data` are fingerprints of what it reads, by setting, as they stand under "data" in the `extra`
    of its checkpoints. Raises UserError where the run was trained on other data.
    """
    newest = latest_checkpoint(run)
    if newest is None or not ranks.is_first:
        return
    with resuming(run):
        known = read_manifest(newest)["extra"].get("data") or data
    for key in {**known, **data}:
        if known.get(key) != data.get(key):
            raise UserError(
                f"{run} was trained on other data than {key} holds now; give the new run another "
                "name=..., or the former data"
            )
    try:
        _write_settings(run, config)
    except OSError as error:
        raise _not_writable(run, error) from error


class _PlainLoader(yaml.SafeLoader):
    """YAML as we write it. An alias may stand for what contains it, or for a million copies."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def recorded_settings(run: Path) -> dict[str, Any]:
    """config.yaml of a run folder, as `open_run` wrote it; empty where there is no readable one."""
    try:
        settings = yaml.load(read_text(run / "config.yaml", MOST_RECORD_BYTES), _PlainLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
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


def _write_settings(run: Path, config: Any) -> None:
    """config.yaml of a run folder, whole or as it was before."""
    unfinished = run / ".config.yaml"
    unfinished.write_text(yaml.safe_dump(_settings(config), sort_keys=False))
    unfinished.replace(run / "config.yaml")


def _settings(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(config), default=str))


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write the run folder {folder} ({error.strerror}); choose another runs_dir"
    )


def _run_record(folder: Path) -> dict[str, Any]:
    """run.json of a folder; empty where there is no readable one."""
    try:
        run = read_json(folder / "run.json", MOST_RECORD_BYTES)
    except (OSError, ValueError):
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
