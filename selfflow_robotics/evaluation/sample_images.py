"""Sample images that a run writes while it trains. Where its autoencoder is missing, there are
none, and training goes on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from selfflow_robotics.data.mixture import JoinedWindows
from selfflow_robotics.data.rlds.windows import WindowReader
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.video import write_grid
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.inference.generate import NumberedPictures, Sampling
from selfflow_robotics.inference.imagine import imagine
from selfflow_robotics.rng import numpy_generator

SAMPLES = 16  # generated images
WINDOWS = 3  # imagined ones


def write_generated(
    path: Path,
    bundle: Bundle,
    *,
    seed: int,
    labels: Sequence[int] | None = None,
    prompts: Sequence[str] | None = None,
) -> None:
    """Images from noise, in a grid; `labels` and `prompts` as in `NumberedPictures`."""
    if ready := _with_autoencoder(bundle):
        ready = replace(ready, roles=("image",))  # also of a run that trains on clips alone
        how = Sampling(method="euler", num_steps=50)
        maker = NumberedPictures(ready, how, seed, labels, prompts)
        write_grid(path, maker(range(SAMPLES)), columns=4)


def write_imagined(
    path: Path, bundle: Bundle, reader: WindowReader | JoinedWindows, *, seed: int
) -> None:
    """Sample windows of `reader` and imagine their later frames from the first one and the actions.

    Two rows of images per window: the recorded frames, and the same first frame with imagined ones.
    """
    ready = _with_autoencoder(bundle)
    if ready is None:
        return
    chosen = numpy_generator("imagined windows", seed).choice(
        len(reader), min(WINDOWS, len(reader)), replace=False
    )
    batch = reader.read(chosen)
    first = batch.frames[:, :1]
    num_later = min(batch.frames.shape[1] - 1, ready.most_imagined)
    if num_later == 0:
        print("no sample images: the actions of a chunk end before the first later frame")
        return
    actions = batch.actions[:, : num_later * ready.frame_stride]
    imagined = imagine(ready, first[:, 0], actions, batch.instruction, seed=seed)
    truth = batch.frames[:, : 1 + num_later]
    rows = np.stack([truth, np.concatenate([first, imagined], axis=1)], axis=1)
    write_grid(path, rows.reshape(-1, *first.shape[2:]), columns=1 + num_later)


def _with_autoencoder(bundle: Bundle) -> Bundle | None:
    try:
        return bundle.with_autoencoder()
    except UserError as error:
        print(f"no sample images: {error}")
        return None
