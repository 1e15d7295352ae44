"""Which samples a step sees: a shuffled order that is a function of (seed, step) alone."""

import numpy as np

from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import numpy_generator

MOST_EPOCHS = 100  # in one batch


class EpochSampler:
    """Every sample once an epoch, in an order that depends on (seed, epoch).

    Nothing has to be stored to resume: the batch of step k is positions [k B, (k + 1) B) of the
    endless sequence of shuffled epochs.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int) -> None:
        if num_samples < 1:
            raise UserError("the data set has no samples to train on; collect more episodes")
        if batch_size < 1:
            raise UserError(f"the batch size must be at least 1, got {batch_size}")
        if batch_size > MOST_EPOCHS * num_samples:
            raise UserError(
                f"a batch of {batch_size} shows each of the {num_samples} samples more than "
                f"{MOST_EPOCHS} times; choose a smaller batch size"
            )
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def batch(self, step: int) -> list[int]:
        """Sample numbers of a step, `batch_size` of them."""
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [self._at(position) for position in positions]

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self.num_samples)
        if epoch != self._epoch:
            self._order = numpy_generator(self.seed, epoch, 2).permutation(self.num_samples)
            self._epoch = epoch
        return int(self._order[offset])
