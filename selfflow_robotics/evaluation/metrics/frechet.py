"""The Frechet distance between Gaussians that are fitted to two sets of features.

FID (arXiv 1706.08500), sFID, FD-DINOv2, FVD and FAD are this formula on different features:

    d = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))

with the unbiased covariances S, as in ADM's evaluation suite. The last trace is the sum of the
singular values of S_1^(1/2) S_2^(1/2), from symmetric roots. That is exact for singular covariances
too, where the usual root of the product S_1 S_2 needs an offset on the diagonal.

The estimate is biased: with N samples it is about c / N too large, with c different for each
network (arXiv 1911.07023). Only compare distances of equally many samples.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg

from selfflow_robotics.errors import UserError

# Eigenvalues below this share of the largest one, times their number, are rounding errors.
_EPS = float(np.finfo(np.float64).eps)
# Files may store covariances in float32, with negative eigenvalues of this share; below: no
# covariance.
_MOST_NEGATIVE = 1e-3


@dataclass(frozen=True)
class Gaussian:
    """Mean float64 [D] and covariance float64 [D, D] of features; `count`: of how many, if
    known."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None

    @property
    def width(self) -> int:
        """D."""
        return len(self.mean)

    @cached_property
    def root(self) -> np.ndarray:
        """The symmetric root of the covariance. Raises UserError if it is no covariance."""
        return _root(self.covariance)


class Moments:
    """Mean and covariance of features that come in batches, without keeping them.

    Computed in float64 from centred batches (Chan, Golub & LeVeque 1979), so that features far from
    zero lose no digits. `origin` says in errors whose features these are.
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.count = 0
        self._mean = self._scatter = np.zeros(0)

    def add(self, features: np.ndarray) -> None:
        """Add features [B, D], numbers of any kind. Raises UserError if D differs from earlier
        batches or a feature is not finite."""
        batch = np.asarray(features, np.float64)
        if batch.ndim != 2:
            raise ValueError(f"features must be [B, D], got {batch.shape}")
        if not len(batch):
            return
        if not np.isfinite(batch).all():
            raise UserError(f"{self.origin}: features are not finite; check the feature network")
        mean = batch.mean(axis=0)
        centred = batch - mean
        self._join(len(batch), mean, centred.T @ centred)

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both sets of features together."""
        both = Moments(self.origin)
        for one in (self, other):
            if one.count:
                both._join(one.count, one._mean, one._scatter)
        return both

    def gaussian(self, few: bool = False) -> Gaussian:
        """The fitted Gaussian.

        Raises UserError for fewer than two samples and, unless `few`, for no more samples than
        features: their covariance is singular, and the distance is mostly bias.
        """
        width = len(self._mean)
        if self.count < 2:
            raise UserError(f"{self.origin}: a covariance needs 2 samples, got {self.count}")
        if self.count <= width and not few:
            raise UserError(
                f"{self.origin}: {self.count} samples are too few for {width} features, the "
                f"Frechet distance would be mostly bias; use more than {width} samples, a feature "
                "network with fewer features, or few_samples=true to compute it nevertheless"
            )
        return Gaussian(self._mean, self._scatter / (self.count - 1), self.count)

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if not self.count:
            self.count, self._mean, self._scatter = count, mean, scatter
            return
        if len(mean) != len(self._mean):
            raise UserError(
                f"{self.origin}: features of {len(mean)} numbers after features of "
                f"{len(self._mean)}"
            )
        total = self.count + count
        delta = mean - self._mean
        self._scatter = self._scatter + scatter
        self._scatter += np.outer(delta, delta * (self.count * count / total))
        self._mean = self._mean + delta * (count / total)
        self.count = total


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The (squared) Frechet distance, as published; 0 for equal Gaussians, never negative.

    Raises UserError for different widths, numbers that are not finite, or a matrix that is no
    covariance.
    """
    if first.width != second.width:
        raise UserError(
            f"features of {first.width} and of {second.width} numbers cannot be compared; use the "
            "same feature network for both"
        )
    difference = first.mean - second.mean
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    shared = np.linalg.svd(first.root @ second.root, compute_uv=False).sum()
    return max(0.0, float(difference @ difference + traces - 2 * shared))


def _root(covariance: np.ndarray) -> np.ndarray:
    if not np.isfinite(covariance).all():
        raise UserError("a covariance is not finite; compute the statistics again")
    values, vectors = linalg.eigh((covariance + covariance.T) / 2)
    largest = max(float(values[-1]), 0.0)
    if values[0] < -_MOST_NEGATIVE * largest or not np.allclose(
        covariance, covariance.T, rtol=0, atol=_MOST_NEGATIVE * largest
    ):
        raise UserError("a covariance is not symmetric and positive; compute the statistics again")
    values = np.where(values < len(values) * _EPS * largest, 0.0, values)
    return (vectors * np.sqrt(values)) @ vectors.T
