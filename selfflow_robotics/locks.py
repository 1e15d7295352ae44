"""Lock a results folder for one process."""

import fcntl
import os
from pathlib import Path

from selfflow_robotics.errors import UserError

# folder -> descriptor of its lock file; the kernel releases the lock when the process ends.
_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Lock `folder` until this process ends; calls may be repeated.

    Raises UserError if another process holds the lock, OSError if the folder is not writable.
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
            f"another process is using {folder}; wait until it ends, or choose another folder"
        ) from None
    except OSError:
        # Some network file systems have no locks: continue rather than refuse every run there.
        pass
    _held[folder] = descriptor
