"""Batches that other processes read and decode ahead."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from selfflow_robotics.errors import UserError

AHEAD = 2  # batches that each worker prepares
LARGE_BYTES = 2**16  # arrays from here on are not copied through a pipe


class Workers:
    """`batch_at` of the training loop, computed by `count` processes; 0: by the caller.

    A batch is a function of the step alone, so the number of workers, and where a run was
    interrupted, change nothing. Worker w computes the steps start + w, start + w + count, ...;
    they come back in order. The processes are forked at the first call and share this process's
    index and cached frames. Use as a context manager.
    """

    def __init__(self, batch_at: Callable[[int], Any], count: int, stop: int) -> None:
        """`stop`: the step at which training ends."""
        self._batch_at, self._count, self._stop = batch_at, count, stop
        self._batches: Iterator[Any] | None = None
        self._next = 0

    def __call__(self, step: int) -> Any:
        """The batch of a step; workers read ahead if it is called with consecutive steps.

        Raises UserError as `batch_at`, and if a worker died.
        """
        if self._count == 0:
            return self._batch_at(step)
        if self._batches is None or step != self._next:
            self._batches = self._start(step)
        self._next = step + 1
        try:
            found = next(self._batches)
        except RuntimeError as error:  # what torch raises for a dead worker
            raise UserError(
                "a worker process that reads data died, perhaps because memory or /dev/shm ran "
                "out; repeat the command with fewer workers=, or workers=0"
            ) from error
        if isinstance(found, UserError):
            raise found
        return _to_numpy(found)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._batches = None  # ends the processes

    def _start(self, step: int) -> Iterator[Any]:
        loader = DataLoader(
            _Steps(self._batch_at),
            sampler=range(step, self._stop),
            batch_size=None,
            num_workers=self._count,
            collate_fn=_same,
            prefetch_factor=AHEAD,
            worker_init_fn=_ignore_signals,
            multiprocessing_context="fork",  # shares memory; workers use no GPU
        )
        return iter(loader)


class _Steps(Dataset):
    """Batches by step."""

    def __init__(self, batch_at: Callable[[int], Any]) -> None:
        self._batch_at = batch_at

    def __getitem__(self, step: int) -> Any:
        try:
            return _to_tensors(self._batch_at(step))
        except UserError as error:  # torch would add a traceback to its text
            return error


def _same(batch: Any) -> Any:
    return batch


def _ignore_signals(_: int) -> None:
    # The parent ends the workers, after it has saved a checkpoint.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _to_tensors(value: Any) -> Any:
    """Large arrays as tensors, which are sent through shared memory: a file for each."""

    def convert(array: np.ndarray) -> Any:
        return torch.from_numpy(array) if array.nbytes >= LARGE_BYTES else array

    return _convert(value, np.ndarray, convert)


def _to_numpy(value: Any) -> Any:
    return _convert(value, torch.Tensor, lambda tensor: tensor.numpy())


def _convert(value: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    """`convert` everything of a kind in a tuple or in the attributes of an object."""
    if isinstance(value, kind):
        return convert(value)
    if isinstance(value, tuple):
        return tuple(_convert(item, kind, convert) for item in value)
    if hasattr(value, "__dict__"):
        for name, item in vars(value).items():
            if isinstance(item, kind):
                setattr(value, name, convert(item))
    return value
