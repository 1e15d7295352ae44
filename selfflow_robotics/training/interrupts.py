"""Signals as requests to a training run, so that a step is never interrupted."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from selfflow_robotics.signals import ENDINGS, SAVE, endings_call


@dataclass
class Requests:
    """What signals have asked for."""

    stop: bool = False  # save and stop: Ctrl-C, SIGTERM, SIGHUP
    save: bool = False  # save and go on: SIGUSR1
    signal: int = signal.SIGINT  # the one that asked to stop; also if another process got it


@contextmanager
def requests() -> Iterator[Requests]:
    """A context in which signals only set the flags of its `Requests`."""
    asked = Requests()

    def request(number: int, _: object) -> None:
        if number == SAVE:
            asked.save = True
        else:
            asked.stop, asked.signal = True, number

    with endings_call(request, (*ENDINGS, SAVE)):
        yield asked
