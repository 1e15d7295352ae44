"""Load the next batches while the current one trains."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


class Prefetch:
    """Batches from a thread, in steps of `per_step` consecutive ones."""

    def __init__(
        self, batch_at: Callable[[int], Any], start: int, stop: int, per_step: int = 1
    ) -> None:
        """`batch_at`: number -> batch; steps `start` to `stop` are loaded."""
        self._queue: queue.Queue = queue.Queue(maxsize=2)
        self._closed = threading.Event()
        self._steps, self._per_step = range(start, stop), per_step
        self._batch_at = batch_at
        self._thread = threading.Thread(target=self._fill, daemon=True)

    def __enter__(self) -> "Prefetch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _fill(self) -> None:
        for step in self._steps:
            for number in range(step * self._per_step, (step + 1) * self._per_step):
                if self._closed.is_set():
                    return
                try:
                    self._queue.put(self._batch_at(number))
                except Exception as error:  # raised again in the training thread
                    self._queue.put(error)
                    return

    def __iter__(self) -> Iterator[tuple[list[Any], float]]:
        """(batches, seconds waited for them) of each step."""
        for _ in self._steps:
            batches, waited = [], 0.0
            for _ in range(self._per_step):
                started = time.perf_counter()
                batch = self._queue.get()
                waited += time.perf_counter() - started
                if isinstance(batch, Exception):
                    raise batch
                batches.append(batch)
            yield batches, waited
