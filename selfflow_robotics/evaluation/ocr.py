"""Text in images, read by OCR: images in, numbers out.

The reader is the recognition network of RapidOCR (PP-OCRv4), whose weights come with the package
(the extra "ocr"). It takes an image as one line of text; nothing is searched for or rotated. Case
and blanks do not count. What an image should say is what its prompt has in double quotes.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.statistics import Interval, share_text, wilson_interval
from selfflow_robotics.rng import numpy_generator

Reader = Callable[[np.ndarray], str]  # an image uint8 [H, W, 3] -> its text

NUM_RESAMPLES = 2000


def open_reader() -> Reader:
    """Raises UserError if RapidOCR is missing."""
    try:
        package: Any = importlib.import_module("rapidocr_onnxruntime")
    except ImportError:
        raise UserError(
            "reading text needs RapidOCR: pip install 'selfflow_robotics[ocr]'"
        ) from None
    engine = package.RapidOCR(intra_op_num_threads=1)

    def read(image: np.ndarray) -> str:
        found, _ = engine(image[..., ::-1].copy(), use_det=False, use_cls=False)
        return "".join(text for text, _ in found or ())

    return read


def quoted_text(prompt: str) -> str | None:
    """The text in double quotes that an image of this prompt should show; None: there is none."""
    found = re.findall('"([^"]+)"', prompt)
    return " ".join(found) if found else None


def read_images(
    images: Iterable[np.ndarray], prompts: Sequence[str], reader: Reader
) -> list[dict[str, str]]:
    """{"prompt", "wanted", "read"} of each image whose prompt has a text in quotes; the k-th image
    has the k-th prompt."""
    rows = []
    for image, prompt in zip(images, prompts, strict=True):
        wanted = quoted_text(prompt)
        if wanted is not None:
            rows.append({"prompt": prompt, "wanted": wanted, "read": reader(image)})
    return rows


def score_text(rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    """How much of what `read_images` returns is right.

    right of count texts and their share, with Wilson's 95 % interval; the character error rate
    (edits per character that should be there, so it may exceed 1), with a bootstrap interval over
    images. Raises UserError without texts.
    """
    if not rows:
        raise UserError('no prompt has a text in double quotes, such as the word "cat"')
    pairs = [(_plain(row["wanted"]), _plain(row["read"])) for row in rows]
    edits = np.array([edit_distance(wanted, read) for wanted, read in pairs])
    lengths = np.array([len(wanted) for wanted, _ in pairs])
    right, count = int((edits == 0).sum()), len(rows)
    return {
        "count": count,
        "right": right,
        "share": right / count,
        "interval": list(wilson_interval(right, count)),
        "character_error_rate": float(edits.sum() / lengths.sum()),
        "character_error_interval": list(_ratio_interval(edits, lengths)),
    }


def text_line(score: dict[str, Any]) -> str:
    """The numbers of `score_text` in one line."""
    errors = share_text(score["character_error_rate"], score["character_error_interval"])
    return (
        f"{score['right']} of {score['count']} texts read right: "
        f"{share_text(score['share'], score['interval'])}, character error rate {errors}"
    )


def edit_distance(one: str, other: str) -> int:
    """Levenshtein's: the fewest letters to insert, delete or replace."""
    before = list(range(len(other) + 1))
    for number, letter in enumerate(one, 1):
        row = [number]
        for place, its in enumerate(other, 1):
            changed = before[place - 1] + (letter != its)
            row.append(min(before[place] + 1, row[-1] + 1, changed))
        before = row
    return before[-1]


def _plain(text: str) -> str:
    return "".join(text.split()).casefold()


def _ratio_interval(edits: np.ndarray, lengths: np.ndarray) -> Interval:
    """95 % percentile interval of a ratio of sums, with images drawn anew."""
    generator = numpy_generator("text bootstrap", 0)
    ratios = []
    for _ in range(NUM_RESAMPLES):
        drawn = generator.integers(len(edits), size=len(edits))
        ratios.append(edits[drawn].sum() / lengths[drawn].sum())
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)
