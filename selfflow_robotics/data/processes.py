"""Apply a function to many pieces of data in several processes, in order."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from selfflow_robotics.errors import UserError
from selfflow_robotics.signals import ENDINGS

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_PROCESSES = 32


def processes_for(amount: int, each: int) -> int:
    """The number of processes for an amount of work: one for each core, but no more than have
    `each` of it, since a process takes a while to start."""
    return max(1, min(len(os.sched_getaffinity(0)), MOST_PROCESSES, amount // each))


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int
) -> Iterator[Result]:
    """`function(item)` of each item, in order. One process: this one.

    The others are forked and use neither torch nor a GPU. An exception of `function` is raised at
    its item's turn, so it is the one that one process would have raised. Raises UserError if a
    process died.
    """
    processes = min(processes, len(items))
    if processes <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(processes, context, _start)
    try:
        yield from pool.map(function, items)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that reads the data was killed, perhaps because memory ran out; repeat the "
            "command"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """End this process when its parent has ended. Without this, processes of a killed parent would
    wait for work forever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _start() -> None:
    for number in ENDINGS:  # a terminal sends them to all processes: the parent ends the others
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
