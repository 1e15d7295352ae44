"""Do objects last? Objects that vanish or appear in clips, from the frames alone.

For clips like those of `data.rendered.clips`: each object has one of its colours, named in the
caption ("a red disc moves right and ..."). A pixel belongs to the colour of the nearest hue, if it
is saturated. An object is seen in a frame if enough pixels of its colour hang together. It may be
hidden: then it was seen at the edge of a grey pillar before and after. Otherwise it has vanished.
What is seen in a colour that the caption does not name, or twice, has appeared. Shapes and motions
are not judged.
"""

import colorsys
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from selfflow_robotics.data.rendered.clips import COLOURS, PILLAR
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.statistics import share_text, wilson_interval

LEAST_CHROMA = 60  # levels between the largest and the smallest of R, G and B
RADIUS = 0.16  # of an object, by the frame's height, as rendered
LEAST_SEEN = 0.3  # share of a disc's area
EDGE = 0.1  # an object this near to a pillar (by the frame's height) may be hidden by it
PILLAR_LEVELS, PILLAR_ROWS = 28, 0.6  # how near to its grey, and in which share of a column

HUES = {name: colorsys.rgb_to_hsv(*(c / 255 for c in rgb))[0] for name, rgb in COLOURS.items()}


def named_colours(caption: str) -> list[str]:
    """The colours of the objects that a caption names."""
    return re.findall(rf"\ba ({'|'.join(COLOURS)}) ", f"{caption} ")


def check_captions(captions: Sequence[str]) -> None:
    """Raise UserError unless a caption names an object."""
    if not any(map(named_colours, captions)):
        raise UserError("no caption names an object, such as a red disc")


def colour_masks(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Where frames uint8 [T, H, W, 3] show each colour: bool [T, H, W]."""
    red, green, blue = (frames[..., k].astype(np.float32) for k in range(3))
    # The angle on the hue circle, in [0, 1).
    angle = np.arctan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)
    hue = (angle / (2 * math.pi)) % 1.0
    chroma = frames.max(-1).astype(int) - frames.min(-1)
    away = np.stack([np.abs((hue - of + 0.5) % 1.0 - 0.5) for of in HUES.values()])
    nearest = away.argmin(0)
    return {
        name: (nearest == number) & (chroma >= LEAST_CHROMA) for number, name in enumerate(HUES)
    }


def pillar_mask(frame: np.ndarray) -> np.ndarray:
    """The columns [W] of a frame uint8 [H, W, 3] that show the pillar."""
    near = np.abs(frame.astype(int) - PILLAR).max(-1) <= PILLAR_LEVELS
    return near.mean(0) >= PILLAR_ROWS


def judge_clip(frames: np.ndarray, caption: str) -> dict[str, Any]:
    """What happens to the objects of a clip uint8 [T, H, W, 3].

    {"objects": colours that the caption names, "vanished": those that are missing in a frame where
    nothing hides them, "appeared": colours that nothing should have, or that are there twice}
    """
    height = frames.shape[1]
    least = LEAST_SEEN * math.pi * (RADIUS * height) ** 2
    named, masks = named_colours(caption), colour_masks(frames)
    pillars = np.stack([pillar_mask(frame) for frame in frames])
    reach = max(1, round(EDGE * height))
    around = [ndimage.binary_dilation(columns, iterations=reach) for columns in pillars]
    near = np.array(around, dtype=bool)
    vanished = [
        colour
        for colour in named
        if not _lasts(masks[colour], near if "pillar" in caption else None, least)
    ]
    appeared = [
        colour
        for colour, mask in masks.items()
        if any(
            _pieces(shown, columns, least) > (colour in named)
            for shown, columns in zip(mask, near, strict=True)
        )
    ]
    return {"objects": named, "vanished": vanished, "appeared": appeared}


def _lasts(mask: np.ndarray, near: np.ndarray | None, least: float) -> bool:
    """Whether an object [T, H, W] is seen in each frame, but for gaps behind a pillar; `near`
    [T, W]: the columns at and around it."""
    seen = [_largest(shown) >= least for shown in mask]
    if not any(seen):
        return False
    if near is None:
        return all(seen)
    at_edge = [bool((shown & columns).any()) for shown, columns in zip(mask, near, strict=True)]
    last = len(seen) - 1
    for place, is_seen in enumerate(seen):
        if is_seen:
            continue
        before = next((k for k in range(place, -1, -1) if seen[k]), None)
        after = next((k for k in range(place, last + 1) if seen[k]), None)
        if not all(at_edge[k] for k in (before, after) if k is not None):
            return False
    return True


def _largest(shown: np.ndarray) -> int:
    """Pixels of the largest connected part of a mask [H, W]."""
    parts, count = _connected(shown)
    return int(np.bincount(parts.ravel())[1:].max()) if count else 0


def _connected(shown: np.ndarray) -> tuple[np.ndarray, int]:
    """The connected parts of a mask, numbered from 1, and how many there are."""
    parts, count = ndimage.label(shown)  # pyright: ignore[reportGeneralTypeIssues]
    return np.asarray(parts), int(count)


def _pieces(shown: np.ndarray, near: np.ndarray, least: float) -> int:
    """Large connected parts of a mask [H, W]; those at both sides of a pillar count as one."""
    parts, count = _connected(shown)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    large = [number + 1 for number, size in enumerate(sizes) if size >= least]
    at_pillar = sum(bool((parts == number)[:, near].any()) for number in large)
    return len(large) - max(0, at_pillar - 1)


def score_persistence(
    clips: Iterable[np.ndarray], captions: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The score of clips, and `judge_clip` of each.

    "kept" of "count" clips in which nothing vanishes or appears, with the share's 95 % Wilson
    interval; and how many have something that "vanished" or "appeared". Clips whose caption names
    no object are left out. Raises UserError if there are no others.
    """
    check_captions(captions)
    rows = []
    for clip, caption in zip(clips, captions, strict=True):
        verdict = judge_clip(clip, caption)
        if verdict["objects"]:
            rows.append({"prompt": caption, **verdict})
    kept = sum(not (row["vanished"] or row["appeared"]) for row in rows)
    score = {
        "count": len(rows),
        "kept": kept,
        "share": kept / len(rows),
        "interval": list(wilson_interval(kept, len(rows))),
        "vanished": sum(bool(row["vanished"]) for row in rows),
        "appeared": sum(bool(row["appeared"]) for row in rows),
    }
    return score, rows


def persistence_line(score: dict[str, Any]) -> str:
    """The numbers of `score_persistence` in one line."""
    return (
        f"objects last in {score['kept']} of {score['count']} clips: "
        f"{share_text(score['share'], score['interval'])}; something vanishes in "
        f"{score['vanished']}, appears in {score['appeared']}"
    )
