"""Locks between processes: a results folder is for one, and others wait for what one prepares."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from selfflow_robotics.errors import UserError

# Errors of network file systems without locks; runs there continue without one.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_log = logging.getLogger(__name__)
# folder -> its lock; the kernel releases it when the process ends.
_held: dict[Path, FileLock] = {}


def hold(folder: Path) -> None:
    """Lock `folder` until this process ends; calls may be repeated.

    Raises UserError if another process holds the lock, OSError if the folder is not writable.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    # filelock's fallback is a marker file, which a killed process would leave behind.
    lock = FileLock(folder / ".lock", fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"another process is using {folder}; wait until it ends, or choose another folder"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    _held[folder] = lock


@contextmanager
def alone(path: Path, doing: str) -> Iterator[None]:
    """Run the body while no other process has the lock file `path`, after waiting for it.

    `doing` says in the log which process this one waits for. Where locks are not possible, the body
    runs at once.
    """
    lock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            _log.warning("waiting for the process %s", doing)
            lock.acquire()
    except OSError as error:
        _log.warning("%s cannot be locked: %s", path, error.strerror)
    try:
        yield
    finally:
        lock.release()
