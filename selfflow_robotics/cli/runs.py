"""Run folders: `runs/<name>/` with config.yaml, run.json, metrics.jsonl and checkpoints/."""

import json
import re
from dataclasses import MISSING, asdict, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from selfflow_robotics.errors import UserError
from selfflow_robotics.json_file import read_json, read_text
from selfflow_robotics.locks import hold
from selfflow_robotics.training.checkpoint import (
    MOST_RECORD_BYTES,
    check_manifests,
    latest_checkpoint,
    read_manifest,
    resolve_checkpoint,
    resuming,
    run_of,
)
from selfflow_robotics.training.distributed import ALONE, Ranks

Kind = Literal["pretrain", "images", "media", "finetune", "autoencoder"]

# Settings that may change when a run resumes: paths of the run, its data and autoencoder
# (`continue_run` compares the content), its length, and how it is computed and logged. (The
# training loop compares the precision itself, after resolving "auto".)
ANY_VALUE = re.compile(
    r"name|runs_dir|((images|clips|sounds|films)\.)?data|play_data|root|(collect|play)\.(root|processes|timeout_s|simpler\..+)"
    r"|train\.(steps|log_every|log_to|save_every|sample_every|keep_checkpoints|keep_every|async_save)"
    r"|train\.(parallel|activation_checkpoint|evaluate_every)|evaluation\..+|data_required"
    r"|model\.autoencoder\.(weights|download)"
    r"|threads|workers|device|precision|encoder_download|plan\..+"
)

# What runs depend on besides data sets, in words.
CONTENTS = {
    "frames": "the codec of frames",
    "text": "the text encoder",
    "encoder": "the frozen encoder",
}
# What the records of earlier versions lack; it is not compared with theirs.
ADDED = re.compile(r"encoder|(images|clips|sounds|films) size")

# Files of a start that was interrupted before it wrote run.json.
LEFTOVERS = {".lock", ".run.json"}


def runs_of_kind(kind: Kind, root: Path = Path("runs")) -> list[Path]:
    """The run folders under `root` whose run.json says `kind`, newest first.

    run.json is written by `open_run`: {"kind": ..., "created": ISO 8601 time}. Folders without a
    readable run.json are ignored.
    """
    found = []
    for path in sorted(root.glob("*/run.json")):
        run = _run_record(path.parent)
        if run.get("kind") == kind:
            found.append((str(run.get("created", "")), path.parent))
    return [folder for _, folder in sorted(found, reverse=True)]


def find_checkpoint(given: str | None, kind: Kind, root: Path = Path("runs")) -> Path:
    """The checkpoint folder to use: `given` itself, the last one in the run folder `given`, or the
    last one of the newest run of this kind with a checkpoint. Raises UserError if there is none."""
    if given:
        return resolve_checkpoint(Path(given))
    for run in runs_of_kind(kind, root):
        if checkpoint := latest_checkpoint(run):
            return checkpoint
    raise UserError(
        f"no {kind} run in {root}/ has a checkpoint; train one or pass --checkpoint PATH"
    )


def run_folder(runs_dir: str, name: str) -> Path:
    """`runs_dir/name`. Raises UserError if `name` is not a plain folder name."""
    if not name.strip() or name in (".", "..") or "/" in name or not name.isprintable():
        raise UserError(
            f"name={name!r} is not a valid folder name in {runs_dir}; choose another name=..."
        )
    return Path(runs_dir) / name


def open_run(kind: Kind, folder: Path, config: Any, ranks: Ranks = ALONE) -> Path:
    """Create or resume a run folder for a dataclass `config`; the first process does it for all.

    A run without a checkpoint takes the new configuration. Raises UserError if the folder contains
    something other than a run of this kind, if the run's configuration differs or cannot be read,
    if another process is using the folder, or if it cannot be written.
    """
    if not ranks.is_first:
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_strangers(folder, kind)
        hold(folder)
        check_manifests(folder)
        if latest_checkpoint(folder):
            _refuse_other(folder, config)
            return folder
        created = datetime.now(UTC).isoformat(timespec="seconds")
        begun = folder / ".run.json"  # a partial run.json would not be recognised
        begun.write_text(json.dumps({"kind": kind, "created": created}) + "\n")
        begun.replace(folder / "run.json")
        _write_settings(folder, config)
    except OSError as error:
        raise _not_writable(folder, error) from error
    return folder


def continue_run(run: Path, config: Any, data: dict[str, str], ranks: Ranks = ALONE) -> None:
    """Record the settings with which a run resumes, after comparing its data by content.

    `data` maps settings to fingerprints of the data, as stored under "data" in the `extra` of
    checkpoints. Raises UserError if the run was trained on different data.
    """
    newest = latest_checkpoint(run)
    if newest is None or not ranks.is_first:
        return
    with resuming(run):
        known = read_manifest(newest)["extra"].get("data") or data
    for key in {**known, **data}:
        if key not in known and ADDED.fullmatch(key):
            continue
        if known.get(key) != data.get(key):
            raise UserError(
                f"{run} was trained on different data: {CONTENTS.get(key, key)} has changed; "
                "choose another name=... for a new run, or restore the original"
            )
    try:
        _write_settings(run, config)
    except OSError as error:
        raise _not_writable(run, error) from error


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which could refer to themselves or expand to a million copies."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def recorded_settings(run: Path) -> dict[str, Any]:
    """config.yaml of a run folder, as written by `open_run`; empty if it cannot be read."""
    try:
        settings = yaml.load(read_text(run / "config.yaml", MOST_RECORD_BYTES), _PlainLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def open_results(given: str | None, checkpoint: Path, name: str) -> Path:
    """The folder `given`, or `eval/name` of the checkpoint's run, created and locked.

    Raises UserError if it cannot be written or another process is using it.
    """
    folder = Path(given) if given else run_of(checkpoint) / "eval" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hold(folder)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}); choose another output=..."
        ) from error
    return folder


def _write_settings(run: Path, config: Any) -> None:
    """Write config.yaml of a run folder atomically."""
    unfinished = run / ".config.yaml"
    unfinished.write_text(yaml.safe_dump(_settings(config), sort_keys=False))
    unfinished.replace(run / "config.yaml")


def _settings(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(config), default=str))


def _defaults(schema: type) -> dict[str, Any]:
    """The defaults of a dataclass's settings, without those that have none."""
    given = {}
    for one in fields(schema):
        if one.default is not MISSING:
            given[one.name] = one.default
        elif one.default_factory is not MISSING:
            given[one.name] = one.default_factory()
    plain = {}
    for key, value in given.items():
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        plain[key] = value
    return json.loads(json.dumps(plain, default=str))


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write the run folder {folder} ({error.strerror}); choose another runs_dir"
    )


def _run_record(folder: Path) -> dict[str, Any]:
    """run.json of a folder; empty if it cannot be read."""
    try:
        run = read_json(folder / "run.json", MOST_RECORD_BYTES)
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def _refuse_strangers(folder: Path, kind: Kind) -> None:
    """Raise UserError if the folder is neither empty nor a run of this kind."""
    found = _run_record(folder).get("kind")
    if found == kind or {path.name for path in folder.iterdir()} <= LEFTOVERS:
        return
    if found in get_args(Kind):
        is_run, not_run = (f"{'an' if k == 'images' else 'a'} {k} run" for k in (found, kind))
        raise UserError(f"{folder} is {is_run}, not {not_run}; choose another name=...")
    raise UserError(
        f"{folder} is not empty and not a run (run.json is missing or damaged); choose another "
        "name=..."
    )


def _refuse_other(folder: Path, config: Any) -> None:
    """Raise UserError naming the setting in which an existing run differs.

    Settings that did not exist yet when the run started had their defaults.
    """
    old, new = _flat(recorded_settings(folder)), _flat(_settings(config))
    if not old:
        raise UserError(
            f"{folder}/config.yaml is missing or damaged; restore it or choose another name=..."
        )
    old = {key: v for key, v in _flat(_defaults(type(config))).items() if key in new} | old
    changed = [
        key for key in new | old if old.get(key) != new.get(key) and not ANY_VALUE.fullmatch(key)
    ]
    if changed:
        key = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserError(
            f"{folder} holds a run with {key}={old.get(key)}, not {new.get(key)}{more}; choose "
            "another name=..."
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value  # a damaged file may have keys that are not strings
    return flat
