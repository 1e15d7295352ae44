"""Rendered words: a short word in one of several fonts, sizes and colours, on a coloured ground.

    the word "cat" in red on a white background     the full caption, and the prompt of its words
    "cat" in red on white, the word "cat", "cat"    shorter ones

All words are a consonant, a vowel and a consonant, or come from a file. Whether a word is held out
from training depends on the word alone.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from selfflow_robotics.data.rendered.fonts import check_fonts, load_font
from selfflow_robotics.errors import UserError
from selfflow_robotics.json_file import read_text
from selfflow_robotics.rng import numpy_generator

Colour = tuple[int, int, int]

CONSONANTS, VOWELS = "bcdfhjklmnpqrstvwxyz", "aeiou"  # without g, which has two common shapes
COLOURS: dict[str, Colour] = {
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "red": (205, 30, 35),
    "green": (25, 130, 50),
    "blue": (35, 60, 200),
    "yellow": (245, 220, 50),
    "orange": (245, 145, 25),
    "purple": (115, 40, 145),
    "pink": (250, 160, 195),
}
LEAST_CONTRAST = 3.0  # of WCAG 2.2 for large text
COLOUR_NOISE = 10  # levels
MARGIN = 2  # px around a word
SHIFT = (2, 1)  # most px right or left, up or down of the centre


@dataclass(frozen=True)
class WordsConfig:
    """What the words look like."""

    words: str | None = None  # a file with a word per line; None: consonant, vowel, consonant
    fonts: tuple[str, ...] = ("aileron", "dejavu-sans", "dejavu-bold", "dejavu-serif")
    image_size: tuple[int, int] = (24, 48)  # (height, width) px
    font_px: tuple[int, int] = (16, 20)  # smallest and largest; smaller if a word does not fit
    held_out: float = 0.1  # share of the words

    def __post_init__(self) -> None:
        if not all(16 <= px <= 1024 for px in self.image_size):
            raise UserError(f"words.image_size must be from 16 to 1024 px, got {self.image_size}")
        if not 8 <= self.font_px[0] <= self.font_px[1] <= 1024:
            raise UserError(
                f"words.font_px is a range [SMALLEST,LARGEST] from 8 to 1024, got {self.font_px}"
            )
        if not 0 < self.held_out < 1:
            raise UserError(f"words.held_out must be above 0 and below 1, got {self.held_out}")


class RenderedWords:
    """As `data.rendered.write.RenderedSet`."""

    def __init__(self, config: WordsConfig, seed: int) -> None:
        """Raises UserError for missing fonts, and if a split has no words."""
        check_fonts(config.fonts)
        self._config, self._seed = config, seed
        self._words: dict[str, list[str]] = {"train": [], "held_out": []}
        for word in _read_words(Path(config.words)) if config.words else all_words():
            held_out = numpy_generator("held-out word", word).random() < config.held_out
            self._words["held_out" if held_out else "train"].append(word)
        for split, words in self._words.items():
            if not words:
                raise UserError(
                    f"no words are left for {split}; give more words, or another words.held_out"
                )

    def sample(self, split: str, number: int) -> dict[str, bytes]:
        """The files of a sample by suffix: the image and a list of captions, the full one first. A
        function of (seed, split, number)."""
        rng = numpy_generator("rendered word", self._seed, split, number)
        words = self._words[split]
        word = words[rng.integers(len(words))]
        ink, ground = _PAIRS[rng.integers(len(_PAIRS))]
        picture = io.BytesIO()
        Image.fromarray(draw_word(word, ink, ground, self._config, rng)).save(picture, "png")
        captions = captions_of(word, ink, ground)
        return {".png": picture.getvalue(), ".json": json.dumps(captions).encode()}

    def prompts(self, split: str) -> list[str]:
        """A full caption for each word of a split, in random order."""
        rng = numpy_generator("prompts of words", self._seed, split)
        words = self._words[split]
        return [
            captions_of(words[place], *_PAIRS[rng.integers(len(_PAIRS))])[0]
            for place in rng.permutation(len(words))
        ]

    def record(self) -> dict[str, Any]:
        """How many words there are."""
        return {split: len(words) for split, words in self._words.items()}


def all_words() -> list[str]:
    """Consonant, vowel, consonant, in alphabetical order."""
    return ["".join(letters) for letters in product(CONSONANTS, VOWELS, CONSONANTS)]


def captions_of(word: str, ink: str, ground: str) -> list[str]:
    """The full caption, and shorter ones."""
    article = "an" if ground[0] in VOWELS else "a"
    return [
        f'the word "{word}" in {ink} on {article} {ground} background',
        f'"{word}" in {ink} on {ground}',
        f'the word "{word}"',
        f'"{word}"',
    ]


def draw_word(
    word: str, ink: str, ground: str, config: WordsConfig, rng: np.random.Generator
) -> np.ndarray:
    """uint8 [H, W, 3]: the word near the middle, with font, size, place and shades from `rng`."""
    height, width = config.image_size
    name = config.fonts[rng.integers(len(config.fonts))]
    px = int(rng.integers(config.font_px[0], config.font_px[1] + 1))
    while True:  # the largest size that fits
        font = load_font(name, px)
        left, top, right, bottom = font.getbbox(word, anchor="ls")  # around the baseline's start
        fits = right - left <= width - 2 * MARGIN and bottom - top <= height - 2 * MARGIN
        if fits or px <= 8:
            break
        px -= 1
    ink_shade, ground_shade = (_shade(COLOURS[colour], rng) for colour in (ink, ground))
    picture = Image.new("RGB", (width, height), ground_shade)
    # Baselines lie where the tallest and the lowest letters have the same room.
    ascent, descent = font.getmetrics()
    x = (width - right - left) / 2 + rng.integers(-SHIFT[0], SHIFT[0] + 1)
    y = (height + ascent - descent) / 2 + rng.integers(-SHIFT[1], SHIFT[1] + 1)
    x = np.clip(x, MARGIN - left, width - MARGIN - right)
    y = np.clip(y, MARGIN - top, height - MARGIN - bottom)
    ImageDraw.Draw(picture).text((round(x), round(y)), word, ink_shade, font, anchor="ls")
    return np.asarray(picture)


def _shade(colour: Colour, rng: np.random.Generator) -> Colour:
    red, green, blue = np.clip(colour + rng.integers(-COLOUR_NOISE, COLOUR_NOISE + 1, 3), 0, 255)
    return int(red), int(green), int(blue)


def contrast(one: Colour, other: Colour) -> float:
    """The contrast ratio of WCAG 2.2, from 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: Colour) -> float:
    """Relative luminance (WCAG 2.2), from 0 to 1."""
    levels = [level / 255 for level in colour]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# (ink, ground), by name.
_PAIRS = [
    (ink, ground)
    for ink, ground in product(COLOURS, COLOURS)
    if contrast(COLOURS[ink], COLOURS[ground]) >= LEAST_CONTRAST
]


def _read_words(path: Path) -> Sequence[str]:
    try:
        words = sorted(set(read_text(path).split()))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read words.words={path} ({error})") from error
    if '"' in "".join(words):
        raise UserError(f"words.words={path} has a double quote, which marks words in captions")
    return words
