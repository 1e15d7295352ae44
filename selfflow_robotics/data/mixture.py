"""Batches from several data sets in given shares."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from selfflow_robotics.data.rlds.windows import WindowBatch, WindowReader
from selfflow_robotics.data.sampler import EpochSampler
from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import Name

# Shares are exact over so many batches; in each of them, to less than one window.
CYCLE = 64


class JoinedWindows:
    """The windows of several data sets, numbered one after the other."""

    def __init__(self, readers: Sequence[WindowReader]) -> None:
        self._readers = readers
        self.starts = np.cumsum([0, *map(len, readers)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(
        self, windows: Sequence[int] | np.ndarray, future_frames: int | None = None
    ) -> WindowBatch:
        """As `WindowReader.read`; `episode` counts within a window's own data set."""
        places = np.asarray(windows, np.int64)
        if len(self._readers) == 1:
            return self._readers[0].read(places, future_frames)
        whose = np.searchsorted(self.starts, places, side="right") - 1
        order = np.argsort(whose, kind="stable")  # rows by data set
        parts = [
            self._readers[one].read(places[whose == one] - self.starts[one], future_frames)
            for one in np.unique(whose)
        ]
        back = np.argsort(order)
        joined = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])[back]
            for field in fields(WindowBatch)
            if field.name != "instruction"
        }
        words = [text for part in parts for text in part.instruction]
        return WindowBatch(**joined, instruction=[words[row] for row in back])


class Mixture:
    """Every batch has its share of each data set, to less than one window, and 64 batches have it
    exactly; shuffled per data set.

    `batch(number)` is a pure function of (seed, names, number). Readers must agree on horizon and
    frames.
    """

    def __init__(
        self,
        readers: Sequence[WindowReader],
        shares: Sequence[float],
        batch_size: int,
        seed: int,
        *names: Name,
    ) -> None:
        if min(shares) < 0 or sum(shares) <= 0:
            raise UserError(f"shares of data sets must be >= 0 and not all 0, got {list(shares)}")
        self._joined, self._size = JoinedWindows(readers), batch_size
        self._counts = _counts(shares, CYCLE * batch_size)
        # Windows of the data sets take turns as evenly as possible.
        turns = np.concatenate(
            [(np.arange(count) + 0.5) / count for count in self._counts if count]
        )
        source = np.repeat(np.arange(len(readers)), self._counts)
        source = source[np.argsort(turns, kind="stable")]
        # [data set, batch]: its windows in earlier batches of the cycle
        self._before = np.array(
            [
                np.cumsum([0, *(source == one).reshape(CYCLE, batch_size).sum(1)])
                for one in range(len(readers))
            ]
        )
        most = np.diff(self._before, axis=1).max(1)
        self._samplers = [
            EpochSampler(len(reader), int(count), seed, *names, place) if count else None
            for place, (reader, count) in enumerate(zip(readers, most, strict=True))
        ]

    def windows(self, number: int) -> list[int]:
        """The windows of batch `number` (consecutive from 0), by data set; numbered as in
        `JoinedWindows`."""
        cycle, turn = divmod(number, CYCLE)
        chosen = []
        for one, sampler in enumerate(self._samplers):
            if sampler is not None:
                first, last = self._before[one, turn : turn + 2] + cycle * self._counts[one]
                start = int(self._joined.starts[one])
                chosen += [start + window for window in sampler.at(range(first, last))]
        return chosen

    def batch(
        self,
        number: int,
        future_frames: int | None = None,
        share: Callable[[Sequence[Any]], Sequence[Any]] = lambda windows: windows,
    ) -> WindowBatch:
        """The windows of batch `number`, or the `share` of one process; `future_frames` as in
        `WindowReader.read`."""
        return self._joined.read(share(self.windows(number)), future_frames)


def _counts(shares: Sequence[float], total: int) -> np.ndarray:
    """Whole numbers in these proportions that sum up to `total`."""
    exact = np.asarray(shares, np.float64) / sum(shares) * total
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    if ((counts == 0) & (exact > 0)).any():
        raise UserError(
            f"the smallest share of a data set, {min(s for s in shares if s > 0):g}, is less than "
            f"one window in {CYCLE} batches of {total // CYCLE}; raise it or leave the data set out"
        )
    return counts
