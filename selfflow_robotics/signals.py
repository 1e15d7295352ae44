"""The three signals that end a command, and the one that asks a training run to save."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

# Ctrl-C; `kill`, `timeout`, `docker stop`, SLURM; a closed terminal.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `sbatch --signal=USR1@300`: sent before the time limit.
SAVE = signal.SIGUSR1


@contextmanager
def endings_call(
    handler: Callable[[int, object], None], numbers: Sequence[int] = ENDINGS
) -> Iterator[None]:
    """A context in which `numbers` call `handler`. Ignored signals stay ignored (`nohup` ignores
    SIGHUP). Outside the main thread, where handlers cannot be set, it does nothing."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
