"""Compare files of an evaluation with their checksums: report, videos and checkpoint."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.verifying.checksums import Checksums, file_sha256
from selfflow_robotics.inference.bundle import weights_hash
from selfflow_robotics.training.checkpoint import MANIFEST, check_files


def file_differences(folder: Path, sums: Checksums, names: Iterable[str]) -> Iterator[str]:
    """What differs from the recorded checksum of each of these files."""
    for name in names:
        expected, found = sums.files.get(name), file_sha256(folder / name)
        if found is None:
            yield f"{folder / name}: expected a file, found none"
        elif found != expected:
            yield f"{folder / name}: expected SHA-256 {_short(expected)}, found {_short(found)}"


def missing_files(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """A line for each of these files that is not there."""
    for name in names:
        if not (folder / name).is_file():
            yield f"{folder / name}: expected a file, found none"


def checkpoint_differences(path: Path, expected: str) -> Sequence[str]:
    """How a checkpoint or weights file differs from the SHA-256 `expected`, and the files of a
    checkpoint from their checksums in its manifest."""
    try:
        found, problem = _checkpoint_state(path, _stamp(path))
    except OSError:
        if path.is_dir():
            return [f"{path / MANIFEST}: expected a file, found none"]
        return [
            f"{path}: expected a checkpoint, found none; if it was moved, give --checkpoint PATH"
        ]
    if found != expected:
        path = path / MANIFEST if path.is_dir() else path
        return [f"{path}: expected SHA-256 {_short(expected)}, found {_short(found)}"]
    return [problem] if problem else []


def find_evaluated(folder: Path, recorded: str | None) -> Path:
    """Where the checkpoint of the results in `folder` is: among the checkpoints of the run that
    the folder is in, so that a run can be moved, or else the `recorded` path."""
    path = Path(recorded or "unknown")
    for parent in folder.resolve().parents:
        if (beside := parent / "checkpoints" / path.name).exists():
            return beside
    return path


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of a checkpoint's files. Raises OSError if there is none."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@lru_cache(maxsize=16)
def _checkpoint_state(path: Path, stamp: tuple[object, ...]) -> tuple[str, str | None]:
    """(SHA-256, what is wrong with its files). Cached while the files keep their `stamp`, since
    the tasks of a run share a checkpoint of gigabytes."""
    digest = weights_hash(path)
    try:
        if path.is_dir():
            check_files(path)
    except UserError as error:
        return digest, str(error)
    return digest, None


def _short(digest: str | None) -> str:
    """A digest as it is shown; None for a file without one."""
    return digest[:16] if digest else "none"
