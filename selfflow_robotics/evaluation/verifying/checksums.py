"""Checksums of an evaluation's files, written beside each report as checksums.json.

    {
      "ledgers": {"episodes.jsonl": ["5e884898da280471", ...]},
      "files": {"report.md": "5e884898...", "videos/network-top-5168-success.mp4": "...", ...},
      "sha256": "..."
    }

`ledgers` has the first 16 hex digits of the SHA-256 of each line of the ledgers at the time of the
report; a ledger that grows later still begins with these lines. `files` has the SHA-256 of whole
files. Names are relative to the folder. The last entry is the SHA-256 of the other two.

They find damage and careless edits. Whoever can write to the folder can also write new checksums,
so they do not prove who measured what.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.ledger import ledger_files, read_complete_lines
from selfflow_robotics.evaluation.results import write_whole, writing
from selfflow_robotics.json_file import read_json

CHECKSUMS = "checksums.json"
REPORT_FILES = ("report.md", "report.json")
SUMMARY_FILES = ("summary.md", "summary.json")
# Written from the report; earlier versions did not write them.
SPREADSHEETS = ("report.csv", "episodes.csv", "summary.csv")
PAGES = ("report.html", "summary.html")


@dataclass(frozen=True)
class Checksums:
    """The content of checksums.json; all names are relative to its folder."""

    ledgers: dict[str, list[str]]  # per ledger, the digest of each line
    files: dict[str, str]  # SHA-256 in hex

    @classmethod
    def read(cls, folder: Path) -> "Checksums | None":
        """The checksums of a folder; None if it has none. Raises ValueError if they are damaged."""
        try:
            found = read_json(folder / CHECKSUMS)
            checksums = cls(found["ledgers"], found["files"])
            stated = found["sha256"]
        except FileNotFoundError:
            return None
        except (OSError, KeyError, TypeError) as error:
            raise ValueError(str(error)) from None
        if stated != checksums._sha256():
            raise ValueError("its content does not match its own checksum")
        return checksums

    def write(self, folder: Path) -> None:
        """Write checksums.json. Raises UserError if that fails."""
        content = {"ledgers": self.ledgers, "files": self.files, "sha256": self._sha256()}
        with writing(folder):
            write_whole(folder / CHECKSUMS, json.dumps(content, indent=1) + "\n")

    def _sha256(self) -> str:
        text = json.dumps([self.ledgers, self.files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def write_checksums(folder: Path, results: Sequence[Path], names: Sequence[str]) -> None:
    """Write the checksums of a folder: of the ledgers in the folders `results`, and of what there
    is of its files `names` and its spreadsheets and pages. Raises UserError if that fails."""
    names = [*names, *SPREADSHEETS, *PAGES]
    with writing(folder):
        ledgers = {
            Path(relpath(path, folder)).as_posix(): [
                line_digest(line) for line in read_complete_lines(path)[0]
            ]
            for one in results
            for path in ledger_files(one)
        }
        # A video that its owner has deleted has no checksum, and `verify` names it.
        sums = {name: found for name in names if (found := file_sha256(folder / name))}
    Checksums(ledgers, sums).write(folder)


def check_unchanged(folder: Path) -> None:
    """Raise UserError if a ledger no longer begins with the lines it had at the last report: the
    next report must not give edited lines new checksums."""
    try:
        sums = Checksums.read(folder)
        for name, digests in sums.ledgers.items() if sums else ():
            lines = read_complete_lines(folder / name)[0] if (folder / name).exists() else []
            if [line_digest(line) for line in lines[: len(digests)]] != digests:
                raise ValueError(f"{name} has changed since the last report")
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / CHECKSUMS}: {error}; restore the original, or remove {CHECKSUMS} to accept "
            "what is there"
        ) from None


def line_digest(line: bytes) -> str:
    """The digest of a line of a ledger."""
    return hashlib.sha256(line).hexdigest()[:16]


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a file in hex; None if it is missing."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
