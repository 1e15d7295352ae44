"""What a command does with the process that it runs in: signals and standard streams.

Ctrl-C, SIGTERM (`kill`, `timeout`, `docker stop`, SLURM) and SIGHUP (a terminal that closes) arrive
in the code alike, as `KeyboardInterrupt(number)`. Code that must finish something first installs a
handler of its own (`signals.endings_call`) and raises the same afterwards.

What is printed is never a reason to fail: a standard stream that is closed, full or no longer read
(`| head`) takes nothing more, and the work goes on.
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

# What a disk or a path may answer to any program: no mistake of ours.
REFUSALS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENFILE),
}
SHOWN_CHARS = 200  # of a path


@contextmanager
def own_process() -> Iterator[None]:
    """Take over the signals and the standard streams; for the process of a command only.

    Raises UserError at the end where standard output lost something that somebody waits for.
    """
    _fill_standard_descriptors()
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)
    with endings_call(_interrupt), logging_redirect_tqdm():  # warnings do not tear progress bars
        yield
    _check_output()


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells have it: 130, 143 or 129."""
    return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


def refusal(error: OSError | MemoryError) -> str:
    """What the machine refused, in one line. Raises `error` where it may be our own mistake."""
    if isinstance(error, MemoryError):
        return f"not enough memory ({error or 'for what was asked'}); ask for less"
    if error.errno not in REFUSALS:
        raise error
    path = str(error.filename or "")
    shown = path if len(path) <= SHOWN_CHARS else f"{path[:SHOWN_CHARS]}..."
    return f"{error.strerror}: {shown}" if path else str(error.strerror)


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def _fill_standard_descriptors() -> None:
    """Open what is closed (`>&-`) onto nothing, or the next file to be opened becomes it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(descriptor, True)


class _LastingFile(io.FileIO):
    """A descriptor that takes whatever it is given, and remembers the first error."""

    error: OSError | None = None

    def write(self, data, /) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            return len(data)


def _lasting(stream: Any, descriptor: int) -> Any:
    """`stream` without its errors. What is not the process's own stream is left as it is."""
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
    # A reader that has gone (`| head`) had what it wanted.
    if raw.error is not None and not isinstance(raw.error, BrokenPipeError):
        raise UserError(
            f"cannot write to standard output ({raw.error.strerror}), so that part of what is "
            "printed is lost; free space or send it elsewhere, and repeat the command"
        )
