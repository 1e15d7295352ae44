"""The three signals that end a command, handled alike."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Ctrl-C; `kill`, `timeout`, `docker stop`, SLURM; a terminal that closes.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def endings_call(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Within it, `ENDINGS` call `handler`. A signal that the process ignores stays ignored (`nohup`
    ignores SIGHUP); in another thread than the main one, which may not set handlers, nothing
    changes."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDINGS:
            if signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
