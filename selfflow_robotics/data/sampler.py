"""Which samples go into a batch: a shuffled order that depends only on seed and names."""

import numpy as np

from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import Name, numpy_generator

MOST_EPOCHS = 100  # in one batch


class EpochSampler:
    """Every sample once per epoch, in an order that depends on (seed, epoch, names).

    Resuming needs no stored state: batch k is positions [k B, (k + 1) B) of the endless sequence of
    shuffled epochs. Samplers of one run differ in their `names`.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int, *names: Name) -> None:
        if num_samples < 1:
            raise UserError("the data set has no samples to train on; collect more episodes")
        if batch_size < 1:
            raise UserError(f"the batch size must be at least 1, got {batch_size}")
        if batch_size > MOST_EPOCHS * num_samples:
            raise UserError(
                f"a batch of {batch_size} would contain each of the {num_samples} samples more "
                f"than {MOST_EPOCHS} times; choose a smaller batch size"
            )
        self.num_samples, self.batch_size = num_samples, batch_size
        self._seed, self._names = seed, names
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def batch(self, number: int) -> list[int]:
        """Sample numbers of batch `number`, with batches numbered from 0."""
        return self.at(range(number * self.batch_size, (number + 1) * self.batch_size))

    def at(self, positions: range) -> list[int]:
        """Sample numbers at these positions of the endless sequence."""
        return [self._at(position) for position in positions]

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self.num_samples)
        if epoch != self._epoch:
            generator = numpy_generator("order of samples", self._seed, epoch, *self._names)
            order = generator.permutation(self.num_samples)
            self._order = order.astype(np.min_scalar_type(self.num_samples))
            self._epoch = epoch
        return int(self._order[offset])
