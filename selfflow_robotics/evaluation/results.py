"""Results of a measurement: a folder named after its settings, with a report.

The report is written last and atomically, so if it exists, the other files are complete too. Other
settings have another folder; results are never overwritten.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfflow_robotics.errors import UserError
from selfflow_robotics.json_file import read_json
from selfflow_robotics.whole_file import whole_file

IN_TRAINING = "in_training"  # the folder in RUN/eval of results from during the training


def folder_name(kind: str, settings: dict[str, Any]) -> str:
    """A unique name for the settings: KIND-HASH8."""
    text = json.dumps(settings, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def known_report(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The report at `path`, after a line that says so, or None if there is none yet.

    Raises UserError if it is damaged or its "settings" differ.
    """
    try:
        report = read_json(path)
        found = report["settings"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is damaged or not a report; remove it to measure again") from None
    if found != json.loads(json.dumps(settings)):
        raise UserError(f"{path} has results of different settings; choose another output=...")
    print(f"already measured: {path}")
    return report


def check_settings(path: Path, wanted: dict[str, Any], what: str) -> None:
    """Raise UserError if the settings file of a folder with `what` is damaged or differs from
    `wanted` (as JSON reads it)."""
    try:
        found = read_json(path)
        changed = sorted(key for key in {**found, **wanted} if found.get(key) != wanted.get(key))
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path} is damaged; remove its folder or choose another output=..."
        ) from None
    if changed:
        raise UserError(
            f"{path.parent} has {what} with a different {' and '.join(changed)}; choose another "
            "output=... or remove that folder"
        )


def refuse_strangers(folder: Path, patterns: Sequence[str]) -> None:
    """Raise UserError if the folder has files other than these."""
    ours = {path.name for pattern in patterns for path in folder.glob(pattern)}
    if strangers := {path.name for path in folder.iterdir()} - ours:
        raise UserError(f"{folder} contains other files ({min(strangers)}); choose another output")


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report, or settings, atomically."""
    write_whole(path, json.dumps(report, indent=1) + "\n")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `path` as a `whole_file`. Raises OSError."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn file system errors into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write results to {folder} ({error.strerror or error}); free space or choose "
            "another output=..., then repeat the command"
        ) from error
