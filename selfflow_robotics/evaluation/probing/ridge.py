"""Ridge regression in closed form, and scores with bootstrap intervals over groups."""

import numpy as np

PENALTIES = tuple(10.0**power for power in range(-4, 4))
NUM_RESAMPLES = 1000


class Ridge:
    """Linear regression with an L2 penalty, for every penalty at once (float64).

    Minimises |Y - X w - b|^2 / n + penalty |w|^2 over standardised features: each column of X has
    mean 0 and standard deviation 1. One eigendecomposition serves all penalties: of X^T X, or of X
    X^T if there are fewer rows than features.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        """x [n, d] and y [n, k]. Constant columns of x are ignored."""
        self._mean, self._std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        self._std[self._std == 0] = 1
        self._y_mean = y.mean(axis=0, dtype=np.float64)
        x, y, n = self._standardise(x), y - self._y_mean, len(x)
        if x.shape[1] <= n:
            values, self._basis = np.linalg.eigh(x.T @ x / n)
            self._projected = self._basis.T @ (x.T @ y) / n
        else:  # (X^T X / n + c)^-1 X^T = X^T (X X^T / n + c)^-1
            values, vectors = np.linalg.eigh(x @ x.T / n)
            self._basis, self._projected = x.T @ vectors, vectors.T @ y / n
        self._values = values.clip(min=0)

    def predict(self, x: np.ndarray, penalty: float) -> np.ndarray:
        """Predictions [m, k] for x [m, d]."""
        weights = self._basis @ (self._projected / (self._values[:, None] + penalty))
        return self._standardise(x) @ weights + self._y_mean

    def _standardise(self, x: np.ndarray) -> np.ndarray:
        return (x - self._mean) / self._std


def resample_weights(groups: np.ndarray, seed: int) -> np.ndarray:
    """How often each row counts in each bootstrap resample of whole groups: int64 [R, n].

    The groups of `groups` (int [n]) are drawn with replacement, as many as there are: frames of one
    episode are not independent samples.
    """
    _, rows = np.unique(groups, return_inverse=True)
    count = int(rows.max()) + 1
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=NUM_RESAMPLES)
    return drawn[:, rows]


def median_and_interval(errors: np.ndarray, weights: np.ndarray) -> tuple[float, list[float]]:
    """The median of errors [n] and its 95 % bootstrap interval, see `resample_weights`."""
    order = np.argsort(errors)
    passed = np.cumsum(weights[:, order], axis=1)
    middle = np.argmax(2 * passed >= passed[:, -1:], axis=1)
    return float(np.median(errors)), _interval(errors[order][middle])


def r2_and_interval(
    predicted: np.ndarray, true: np.ndarray, reference: np.ndarray, weights: np.ndarray
) -> tuple[float, list[float]]:
    """1 - squared error / squared error of predicting `reference` [k], over [n, k], and its 95 %
    bootstrap interval. With the training mean as reference, predicting that mean scores 0."""
    squares = np.square(predicted - true).sum(axis=1)
    baseline = np.square(reference - true).sum(axis=1)
    values = 1 - (weights @ squares) / (weights @ baseline)
    return float(1 - squares.sum() / baseline.sum()), _interval(values)


def _interval(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.quantile(values, (0.025, 0.975))]
