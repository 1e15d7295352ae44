"""The CLIP score (arXiv 2104.08718): do images show what their captions say?

The mean over samples of 100 cos(image, caption), of embeddings by the same CLIP model. Scores of
different models or captions cannot be compared.
"""

import numpy as np

from selfflow_robotics.errors import UserError


class ClipScore:
    """The score of embeddings that come in batches; float64."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.count = 0
        self._sum = self._squares = 0.0

    def add(self, images: np.ndarray, texts: np.ndarray) -> None:
        """Add image and caption embeddings [B, D]. Raises UserError if one has no direction."""
        image, text = (np.asarray(x, np.float64) for x in (images, texts))
        if image.shape != text.shape:
            raise ValueError(f"{image.shape} image and {text.shape} caption embeddings")
        norms = np.linalg.norm(image, axis=1) * np.linalg.norm(text, axis=1)
        if not (np.isfinite(norms) & (norms > 0)).all():
            raise UserError(f"{self.origin}: CLIP embeddings are zero or not finite")
        scores = 100 * (image * text).sum(axis=1) / norms
        self.count += len(scores)
        self._sum += float(scores.sum())
        self._squares += float((scores**2).sum())

    def value(self) -> float:
        """Raises UserError without samples."""
        if not self.count:
            raise UserError(f"{self.origin}: a CLIP score needs samples")
        return self._sum / self.count

    def standard_error(self) -> float:
        """Of the mean, over samples."""
        variance = max(0.0, self._squares / self.count - self.value() ** 2)
        return float(np.sqrt(variance / self.count))
