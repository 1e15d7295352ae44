"""Samples of the world model: recorded frames above imagined ones."""

from pathlib import Path

import numpy as np

from selfflow_robotics.data.rlds.windows import WindowReader
from selfflow_robotics.evaluation.video import write_grid
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.inference.imagine import imagine
from selfflow_robotics.rng import numpy_generator


def write_imagined(
    path: Path, bundle: Bundle, reader: WindowReader, *, seed: int, num_windows: int = 3
) -> None:
    """Sample windows of `reader` and imagine their later frames from the first one and the actions.

    Two rows of images per window: the recorded frames, and the same first frame with imagined ones.
    """
    num_windows = min(num_windows, len(reader))
    chosen = numpy_generator("imagined windows", seed).choice(
        len(reader), num_windows, replace=False
    )
    batch = reader.read(chosen)
    first = batch.frames[:, :1]
    num_later = batch.frames.shape[1] - 1
    imagined = imagine(
        bundle, first[:, 0], batch.actions[:, :num_later], batch.instruction, seed=seed
    )
    rows = np.stack([batch.frames, np.concatenate([first, imagined], axis=1)], axis=1)
    write_grid(path, rows.reshape(-1, *first.shape[2:]), columns=1 + num_later)
