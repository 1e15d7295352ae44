"""Results of one measurement: a folder named after what was measured, and a report that vouches.

The report is written last and whole, so where it is, the files beside it are finished too. Results
of other settings lie in another folder; none ever replace others.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfflow_robotics.errors import UserError
from selfflow_robotics.json_file import read_json


def folder_name(kind: str, settings: dict[str, Any]) -> str:
    """A name of its own for each settings: KIND-HASH8."""
    text = json.dumps(settings, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def known_report(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The report at `path`, or None where there is none yet.

    Raises UserError where it is damaged or its "settings" are not these.
    """
    try:
        report = read_json(path)
        found = report["settings"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is damaged or no report; remove it to measure again") from None
    if found != json.loads(json.dumps(settings)):
        raise UserError(f"{path} holds results of other settings; choose another output=...")
    return report


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write the report, whole or not at all."""
    write_whole(path, json.dumps(report, indent=1) + "\n")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `path`, on disk when this returns; where that fails (OSError) nothing is left of it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what the file system refuses into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write results to {folder} ({error.strerror or error}); free space or choose "
            "another output=..., then repeat the command"
        ) from error
