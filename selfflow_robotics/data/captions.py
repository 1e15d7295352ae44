"""Captions of images: a text file next to each image.

    NAME.png and NAME.txt     a caption per line
    NAME.png and NAME.json    a list of captions

If there are both, the .txt counts. An image may have several captions; each visit in training draws
one of them, as a function of (seed, step).
"""

from collections.abc import Sequence

from selfflow_robotics.data.skips import Unusable
from selfflow_robotics.json_file import parse
from selfflow_robotics.rng import numpy_generator

SUFFIXES = (".txt", ".json")  # the first one that exists counts
MOST_BYTES = 1 << 16  # of a file

Captions = tuple[str, ...]  # of one image, at least one


def parse_captions(suffix: str, data: bytes) -> Captions:
    """The captions in a file, without empty ones; runs of white space count as one blank.

    `suffix` is one of `SUFFIXES`. Raises Unusable if there are none, or for anything else than
    text (.txt) and a list of texts (.json) in UTF-8.
    """
    if len(data) > MOST_BYTES:
        raise Unusable("caption file too large")
    try:
        text = data.decode("utf-8-sig")
        given = text.splitlines() if suffix == ".txt" else parse(text)
        if not isinstance(given, list):
            raise TypeError
        captions = tuple(" ".join(line.split()) for line in given)
        "".join(captions).encode()  # JSON may escape half a character
    except (ValueError, TypeError, AttributeError):
        raise Unusable("bad caption file") from None
    if not any(captions):
        raise Unusable("empty caption")
    return tuple(caption for caption in captions if caption)


def draw_captions(
    captions: Sequence[Captions], places: Sequence[int], size: int, seed: int, step: int
) -> list[str]:
    """One caption of each image.

    Args:
        captions: of the images at these `places` in a batch.
        size: images in the whole batch, of which this process may have a part.
    """
    u = numpy_generator("caption", seed, step).random(size)
    return [
        texts[int(u[place] * len(texts))] for texts, place in zip(captions, places, strict=True)
    ]
