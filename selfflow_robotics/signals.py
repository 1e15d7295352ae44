"""The three signals that end a command."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Ctrl-C; `kill`, `timeout`, `docker stop`, SLURM; a closed terminal.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def endings_call(handler: Callable[[int, object], None]) -> Iterator[None]:
    """A context in which `ENDINGS` call `handler`. Ignored signals stay ignored (`nohup` ignores
    SIGHUP). Outside the main thread, where handlers cannot be set, it does nothing."""
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
