"""Make a reference file of one's own data, in ADM's layout (`npz_file`)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from selfflow_robotics.encoders.features import FeatureNetwork
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.metrics.frechet import Gaussian, Moments
from selfflow_robotics.evaluation.metrics.measure import outputs_of
from selfflow_robotics.evaluation.metrics.npz_file import STATISTICS, write_reference
from selfflow_robotics.evaluation.metrics.sources import Source
from selfflow_robotics.evaluation.results import writing
from selfflow_robotics.rng import numpy_generator

KEPT = 10_000  # images for precision and recall, as in ADM's files


def make_reference(
    path: Path,
    network: FeatureNetwork,
    source: Source,
    batch_size: int,
    few: bool = False,
    on_batch: Callable[[int], object] = lambda _: None,
) -> None:
    """Write statistics of all images of `source`, and `KEPT` of them, drawn at random.

    Raises UserError if the file exists or cannot be written, or as `read` does.
    """
    if path.exists():
        raise UserError(f"{path} exists; remove it or choose another file")
    count, *shape = source.require("images").shape
    kept = min(KEPT, count)
    drawn = numpy_generator("reference images", 0).permutation(count)[:kept]
    is_kept = np.isin(np.arange(count), drawn)
    moments = {output: Moments(source.origin) for output in STATISTICS}

    def pictures() -> Iterator[np.ndarray]:
        for start, batch, outputs in outputs_of(network, source, batch_size):
            for output in moments.keys() & outputs.keys():
                moments[output].add(outputs[output])
            yield batch[is_kept[start : start + len(batch)]]
            on_batch(len(batch))

    def gaussians() -> Iterator[tuple[str, Gaussian]]:
        for output, one in moments.items():
            if one.count:
                yield output, one.gaussian(few)

    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_reference(path, pictures(), (kept, *shape), gaussians(), network.identity)
