"""Batches from several data sets in fixed shares."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from selfflow_robotics.data.rlds.windows import WindowBatch, WindowReader
from selfflow_robotics.data.sampler import EpochSampler
from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import Name


class Mixture:
    """Every batch has a fixed share of each data set, rounded to whole windows; shuffled per data
    set.

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
        if batch_size < sum(share > 0 for share in shares):
            raise UserError(f"a batch of {batch_size} is too small to include every data set")
        edges = np.round(np.cumsum([0, *shares]) / sum(shares) * batch_size).astype(int)
        self._parts = [
            (reader, EpochSampler(len(reader), int(count), seed, *names, place))
            for place, (reader, count) in enumerate(zip(readers, np.diff(edges), strict=True))
            if count > 0
        ]

    def batch(
        self,
        number: int,
        future_frames: int | None = None,
        share: Callable[[Sequence[Any]], Sequence[Any]] = lambda windows: windows,
    ) -> WindowBatch:
        """The windows of batch `number` (consecutive from 0), or the `share` of one process;
        `future_frames` as in `WindowReader.read`."""
        places = [
            (part, window)
            for part, (_, sampler) in enumerate(self._parts)
            for window in sampler.batch(number)
        ]
        mine = share(places)
        parts = [
            reader.read(windows, future_frames)
            for part, (reader, _) in enumerate(self._parts)
            if (windows := [window for place, window in mine if place == part])
        ]
        joined = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(WindowBatch)
            if field.name != "instruction"
        }
        words = [text for part in parts for text in part.instruction]
        return WindowBatch(**joined, instruction=words)
