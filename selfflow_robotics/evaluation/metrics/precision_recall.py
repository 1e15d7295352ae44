"""Improved precision and recall (arXiv 1904.06991): are samples realistic, and do they cover the
reference?

A set's manifold is the union of balls around its features, each as large as the distance to the
k-th nearest other feature of the set (k = 3). Precision is the share of samples in the reference's
manifold; recall is the share of reference images in the samples'. ADM's evaluation suite computes
them on InceptionV3's features of 50 000 samples and 10 000 reference images, and that is what
"precision" and "recall" mean in papers that follow it; the original uses VGG-16.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.statistics import Interval, wilson_interval

NEIGHBOURS = 3
_MOST_DISTANCES = 1 << 24  # in memory at once: 128 MB


@dataclass(frozen=True)
class Share:
    """How many of a set's features lie in the other set's manifold."""

    inside: int
    count: int
    together: int = 1  # so many are not independent (frames of a clip); they count as one

    @property
    def value(self) -> float:
        return self.inside / self.count

    @property
    def interval(self) -> Interval:
        """95 %, for other images of this set with the other set's manifold as it is."""
        inside = round(self.inside / self.together)
        return wilson_interval(inside, self.count // self.together)


def precision_recall(
    reference: np.ndarray,
    samples: np.ndarray,
    neighbours: int = NEIGHBOURS,
    device: torch.device | str = "cpu",
) -> tuple[Share, Share]:
    """Precision and recall of features [N, D] and [M, D], in float64, block by block.

    Takes N^2 + M^2 + N M distances: minutes on a CPU for the usual 10 000 and 50 000. Raises
    UserError for different widths, numbers that are not finite, or sets without a k-th neighbour.
    """
    if reference.shape[1] != samples.shape[1]:
        raise UserError(
            f"features of {reference.shape[1]} and of {samples.shape[1]} numbers cannot be "
            "compared; use the same feature network for both"
        )
    for name, features in (("reference", reference), ("samples", samples)):
        if len(features) <= neighbours:
            raise UserError(
                f"precision and recall need more than {neighbours} images of each set; the "
                f"{name} has {len(features)}"
            )
        if not np.isfinite(features).all():
            raise UserError(f"features of the {name} are not finite; check the feature network")
    # Centred, so that differences of squares lose fewer digits.
    centre = reference.mean(axis=0, dtype=np.float64)
    real, generated = (
        torch.as_tensor(features - centre, dtype=torch.float64, device=device)
        for features in (reference, samples)
    )
    real_radii, generated_radii = (_radii(set_, neighbours) for set_ in (real, generated))
    precise = 0
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows in _blocks(generated, real):
        distances = _squared_distances(generated[rows], real)
        precise += int((distances <= real_radii).any(dim=1).sum())
        recalled |= (distances <= generated_radii[rows, None]).any(dim=0)
    return Share(precise, len(generated)), Share(int(recalled.sum()), len(real))


def _radii(features: Tensor, neighbours: int) -> Tensor:
    """Squared distance to the k-th nearest other feature [N]; the nearest is the feature itself."""
    radii = [
        _squared_distances(features[rows], features).kthvalue(neighbours + 1, dim=1).values
        for rows in _blocks(features, features)
    ]
    return torch.cat(radii)


def _blocks(rows: Tensor, columns: Tensor) -> list[slice]:
    size = max(1, _MOST_DISTANCES // len(columns))
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """[n, D], [m, D] -> [n, m]."""
    squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    return squares.addmm_(a, b.T, alpha=-2).clamp_(min=0)
