"""Whether impacts are heard when they are seen: films of rendered impacts in, numbers out.

No labels are needed. Seen: bodies are found by colour (those of `data.rendered.impact_scenes`), and
an impact is where a body's fall ends. Heard: the energy of the sound rises. A seen impact is matched
if something is heard within one frame of it. Heard impacts without a seen one are counted apart.
Impacts that begin too early or late for a motion to be seen before and after them do not count.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from selfflow_robotics.data.rendered.impact_scenes import BODY_COLOURS
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.statistics import wilson_interval

# Seen: bodies.
LEAST_SATURATION = 90  # levels between the largest and the smallest channel of a body's pixel
FARTHEST = 0.2  # of a pixel's chromaticity from that of its body
LEAST_AREA = 0.003  # of the picture
LEAST_FALL = 0.012  # heights per frame before an impact
LEAST_BRAKE = 0.025  # heights per frame by which the motion changes
# Heard: onsets.
STEP_S = 0.005
BEFORE_STEPS, AFTER_STEPS = 6, 4  # compared with each other
LEAST_RISE_DB = 6.0
LEAST_LEVEL_DB = -45.0  # of a step; 0 is a sine of amplitude 1
APART_S = 0.08  # of a louder onset, others are its echo
BANDS_HZ = ((0, 300), (300, 900), (900, 2500), (2500, 8000))


class Impacts(NamedTuple):
    """The impacts of one film, times in s in rising order."""

    seen: list[float]
    heard: list[float]


@dataclass(frozen=True)
class Window:
    """The times that count: those from a frame after the start to two before the end."""

    first: float
    last: float

    def inside(self, times: Iterable[float]) -> list[float]:
        return [t for t in times if self.first <= t <= self.last]


def find_impacts(
    frames: np.ndarray, fps: float, sound: np.ndarray, sample_rate: int
) -> Impacts:
    """The impacts of a film: frames uint8 [T, H, W, 3] and a sound float [samples]."""
    return Impacts(seen_impacts(frames, fps), heard_impacts(sound, sample_rate))


def seen_impacts(frames: np.ndarray, fps: float) -> list[float]:
    """When falls end (s), of all bodies."""
    times: list[float] = []
    for heights in track_bodies(frames):
        times += [place / fps for place in fall_ends(heights)]
    return sorted(times)


def track_bodies(frames: np.ndarray) -> list[np.ndarray]:
    """How low each body is in each frame: [T], its centre in picture heights from the top; NaN
    where it is not seen. A body is a saturated colour that most frames have."""
    levels = frames.astype(np.float32)
    saturated = levels.max(-1) - levels.min(-1) >= LEAST_SATURATION
    chromaticity = _chromaticity(levels)
    centres = np.stack([_chromaticity(np.array(c, np.float32)) for c in BODY_COLOURS.values()])
    distances = np.linalg.norm(chromaticity[..., None, :] - centres, axis=-1)
    nearest = np.where(saturated & (distances.min(-1) < FARTHEST), distances.argmin(-1), -1)
    height = frames.shape[1]
    rows = (np.arange(height) + 0.5) / height
    bodies = []
    for number in range(len(centres)):
        mask = nearest == number
        area = mask.mean((1, 2))
        if (area >= LEAST_AREA).mean() > 0.5:
            middle = (mask.mean(2) * rows).sum(1) / np.maximum(mask.mean(2).sum(1), 1e-9)
            bodies.append(np.where(area >= LEAST_AREA, middle, np.nan))
    return bodies


def _chromaticity(levels: np.ndarray) -> np.ndarray:
    """The share of each channel, without the grey part."""
    pure = levels - levels.min(-1, keepdims=True)
    return pure / np.maximum(pure.sum(-1, keepdims=True), 1.0)


def fall_ends(heights: np.ndarray) -> list[float]:
    """Where a body that moves as [T] says (downwards is more) stops to fall, in frames and their
    fractions: the motion before and the motion after, both extrapolated, meet there."""
    speed = np.diff(heights)  # of frame k to k + 1
    ends = []
    for k in range(1, len(speed)):
        # The impact lies in the step k - 1 or k, of which the one before is still free fall.
        brake = speed[k - 1] - speed[k]
        around = [speed[j - 1] - speed[j] for j in (k - 1, k + 1) if 1 <= j < len(speed)]
        falls = max(speed[k - 1], speed[k - 2] if k > 1 else 0.0)
        if falls < LEAST_FALL or brake < LEAST_BRAKE or brake < max(around, default=0.0):
            continue
        ends.append(float(k))
    return ends
