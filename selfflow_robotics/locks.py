"""One process at a time works in a folder of results."""

import errno
from pathlib import Path

from filelock import FileLock, Timeout

from selfflow_robotics.errors import UserError

# Some network file systems have no locks: better to go on than to refuse every run there.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
# folder -> its lock; the kernel gives it up when the process ends.
_held: dict[Path, FileLock] = {}


def hold(folder: Path) -> None:
    """Keep other processes out of `folder` until this one ends; calls may be repeated.

    Raises UserError where another process is in there, OSError where nothing can be written.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    # Without flock, filelock's other way is a marker that a killed process would leave behind.
    lock = FileLock(folder / ".lock", fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"another process is using {folder}; wait until it ends, or write elsewhere"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    _held[folder] = lock
