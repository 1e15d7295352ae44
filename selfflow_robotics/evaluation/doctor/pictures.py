"""Evidence from pictures: the recorded first image against the simulator's of the same state.

A fault of the images cannot be undone (what is cropped is gone), so the simulator's image is
changed in the same way instead: the recorded image looks like the one that had the same fault.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

Change = Callable[[np.ndarray], np.ndarray]  # uint8 [H, W, 3] -> uint8 [h, w, 3]

_COMPARED = (48, 60)  # (height, width) at which images are compared, free of JPEG's noise


@dataclass(frozen=True)
class Fault:
    """What may have been done to the images."""

    name: str
    change: Change
    mend: str


def bgr(image: np.ndarray) -> np.ndarray:
    """Swap red and blue."""
    return image[..., ::-1]


def square(image: np.ndarray) -> np.ndarray:
    """Crop the middle square."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def padded(image: np.ndarray) -> np.ndarray:
    """Pad to a square with black."""
    height, width = image.shape[:2]
    side = max(height, width)
    whole = np.zeros((side, side, 3), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    whole[top : top + height, left : left + width] = image
    return whole


def cropped(share: float) -> Change:
    """Crop this share of both sides, from the middle."""

    def crop(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        top, left = round(height * (1 - share) / 2), round(width * (1 - share) / 2)
        return image[top : height - top, left : width - left]

    return crop


_WHOLE = "store the camera's whole image, scaled to the stored size"
FAULTS: tuple[Fault, ...] = (
    Fault("BGR", bgr, "swap red and blue before encoding (OpenCV's images are BGR)"),
    Fault("upside down", lambda image: image[::-1], "flip the images vertically"),
    Fault("mirrored", lambda image: image[:, ::-1], "flip the images horizontally"),
    Fault("rotated by 180 degrees", lambda image: image[::-1, ::-1], "rotate the images back"),
    Fault("cropped to a square", square, _WHOLE),
    Fault("padded to a square", padded, f"{_WHOLE}, without black borders"),
    *(
        Fault(f"cropped to {share:.0%} of each side", cropped(share), _WHOLE)
        for share in (0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
    ),
)


def difference(
    recorded: Sequence[np.ndarray], rendered: Sequence[np.ndarray], change: Change | None = None
) -> float:
    """Mean difference of pairs of images (0 to 255), the rendered ones changed."""
    pairs = zip(recorded, rendered, strict=True)
    parts = [np.abs(_small(a) - _small(change(b) if change else b)).mean() for a, b in pairs]
    return float(np.mean(parts))


def contrast(images: Sequence[np.ndarray]) -> float:
    """Mean difference of the images from their mean colour: what a picture of nothing would have
    (0 to 255)."""
    small = [_small(image) for image in images]
    return float(np.mean([np.abs(one - one.mean(axis=(0, 1))).mean() for one in small]))


def _small(image: np.ndarray) -> np.ndarray:
    height, width = _COMPARED
    scaled = Image.fromarray(np.ascontiguousarray(image)).resize(
        (width, height), Image.Resampling.BOX
    )
    return np.asarray(scaled, np.float64)
