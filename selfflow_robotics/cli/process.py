"""Signals and standard streams of a command's process.

Ctrl-C, SIGTERM (`kill`, `timeout`, `docker stop`, SLURM) and SIGHUP (a closed terminal) all raise
`KeyboardInterrupt(number)`. Code that must finish something first installs its own handler
(`signals.endings_call`) and raises the same exception afterwards.

Printing never makes a command fail: if a standard stream is closed, full or no longer read (`|
head`), further output is dropped and the work continues.
"""

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from selfflow_robotics.errors import UserError
from selfflow_robotics.signals import endings_call

# Errors of a disk or a path that are not programming errors.
REFUSALS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENFILE),
}
SHOWN_CHARS = 200  # of a path


@contextmanager
def own_process() -> Iterator[None]:
    """Take over signals and standard streams; only for a command's own process.

    Raises UserError at the end if output that someone was reading got lost.
    """
    _fill_standard_descriptors()
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)
    with endings_call(_interrupt), logging_redirect_tqdm():  # warnings do not tear progress bars
        yield
    _check_output()


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """128 plus the signal's number, as in shells: 130, 143 or 129."""
    return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


def refusal(error: OSError | MemoryError) -> str:
    """A system error in one line. Re-raises `error` if it may be a programming error."""
    if isinstance(error, MemoryError):
        return f"not enough memory ({error or 'for these settings'}); reduce the sizes"
    if error.errno not in REFUSALS:
        raise error
    path = str(error.filename or "")
    shown = path if len(path) <= SHOWN_CHARS else f"{path[:SHOWN_CHARS]}..."
    return f"{error.strerror}: {shown}" if path else str(error.strerror)


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def _fill_standard_descriptors() -> None:
    """Open closed descriptors (`>&-`) as /dev/null, so that no other file takes their number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            os.set_inheritable(descriptor, True)


class _LastingFile(io.FileIO):
    """A descriptor whose writes never fail; it remembers the first error."""

    error: OSError | None = None

    def write(self, data, /) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            return len(data)


def _lasting(stream: Any, descriptor: int) -> Any:
    """`stream` with errors suppressed. Streams that are not the process's own stay unchanged."""
    own = (sys.__stdout__, sys.__stderr__)[descriptor - 1]
    if stream is not None:
        if stream is not own:
            return stream
        stream.flush()
    raw = _LastingFile(descriptor, "w", closefd=False)
    encoding = getattr(stream, "encoding", "utf-8")
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=True
    )


def _check_output() -> None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _LastingFile):
        return
    sys.stdout.flush()
    # A reader that stopped (`| head`) got what it wanted.
    if raw.error is not None and not isinstance(raw.error, BrokenPipeError):
        raise UserError(
            f"cannot write to standard output ({raw.error.strerror}), so part of the output is "
            "lost; free space or redirect it elsewhere, and repeat the command"
        )
