"""One process at a time works in a folder of results."""

import fcntl
import os
from pathlib import Path

from selfflow_robotics.errors import UserError

# folder -> descriptor of its lock file; the kernel gives the lock up when the process ends.
_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Keep other processes out of `folder` until this one ends; calls may be repeated.

    Raises UserError where another process is in there, OSError where nothing can be written.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"another process is using {folder}; wait until it ends, or write elsewhere"
        ) from None
    except OSError:
        # Some network file systems have no locks: better to go on than to refuse every run there.
        pass
    _held[folder] = descriptor
