"""The Inception Score (arXiv 1606.03498): are images confident members of many classes?

exp(mean KL(p(y | x) || p(y))), of a classifier's class probabilities. As in ADM's evaluation suite
it is computed on the samples in order, 5 000 at a time, and averaged.
"""

import numpy as np
from scipy.special import log_softmax, xlogy

from selfflow_robotics.errors import UserError

SPLIT = 5000


class InceptionScore:
    """The score of logits that come in batches, without keeping them; float64."""

    def __init__(self, origin: str, split_size: int = SPLIT) -> None:
        self.origin = origin
        self.count = 0
        self._split_size = split_size
        self._splits: list[_Split] = []

    def add(self, logits: np.ndarray) -> None:
        """Add logits [B, K], in the samples' order. Raises UserError if one is not finite."""
        rows = np.asarray(logits, np.float64)
        if not np.isfinite(rows).all():
            raise UserError(f"{self.origin}: the classifier's logits are not finite")
        while len(rows):
            filled = self.count % self._split_size
            if not filled:
                self._splits.append(_Split(rows.shape[1]))
            part, rows = np.split(rows, [self._split_size - filled])
            self._splits[-1].add(part)
            self.count += len(part)

    def scores(self) -> list[float]:
        """The score of each part; the last may have fewer samples."""
        return [split.score() for split in self._splits]

    def value(self) -> float:
        """The mean over the parts. Raises UserError without samples."""
        if not self.count:
            raise UserError(f"{self.origin}: an Inception Score needs samples")
        return float(np.mean(self.scores()))


class _Split:
    def __init__(self, num_classes: int) -> None:
        self._count = 0
        self._probabilities = np.zeros(num_classes)
        self._negative_entropy = 0.0

    def add(self, logits: np.ndarray) -> None:
        logs = log_softmax(logits, axis=1)
        probabilities = np.exp(logs)
        self._count += len(logits)
        self._probabilities += probabilities.sum(axis=0)
        self._negative_entropy += float((probabilities * logs).sum())

    def score(self) -> float:
        marginal = self._probabilities / self._count
        return float(np.exp(self._negative_entropy / self._count - xlogy(marginal, marginal).sum()))
