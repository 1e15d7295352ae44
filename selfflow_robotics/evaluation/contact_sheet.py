"""Contact sheets: labelled rows of pictures, with sounds drawn as spectrograms, in one PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from selfflow_robotics.evaluation.video import enlarge, write_png

ROW_HEIGHT = 64  # px, at least; smaller pictures are enlarged by an integer factor
LABEL_PX, GAP = 12, 2
MOST_COLUMNS = 16
SPECTRA, FLOOR_DB = 64, -60.0  # rows of a spectrogram, and what is black

Row = tuple[str, np.ndarray]  # a label, and pictures uint8 [N, H, W, 3]


def write_sheet(path: Path, rows: Sequence[Row]) -> None:
    """Write rows below each other, each with its label above. Of more than `MOST_COLUMNS` pictures,
    evenly spaced ones are shown."""
    strips = []
    for label, pictures in rows:
        shown = np.linspace(0, len(pictures) - 1, min(len(pictures), MOST_COLUMNS)).round()
        large = enlarge(np.asarray(pictures, np.uint8)[shown.astype(int)], ROW_HEIGHT)
        apart = np.pad(large, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
        strips.append((label, np.concatenate(list(apart), axis=1)))
    width = max(strip.shape[1] for _, strip in strips)
    height = sum(strip.shape[0] + LABEL_PX + GAP for _, strip in strips)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(LABEL_PX - 2), 0
    for label, strip in strips:
        draw.text((2, top), label, "black", font)
        sheet.paste(Image.fromarray(strip), (0, top + LABEL_PX))
        top += LABEL_PX + strip.shape[0] + GAP
    write_png(path, sheet)


def spectrogram_picture(sound: np.ndarray, columns: int = 256) -> np.ndarray:
    """The log-magnitudes of a sound float [S] as uint8 [64, columns, 3]: time to the right, high
    frequencies above, linear from 0 to half the sample rate; white is a sine of amplitude 1, black
    60 dB less."""
    size = 2 * SPECTRA
    starts = np.linspace(0, max(0, len(sound) - size), columns).round().astype(int)
    padded = np.pad(sound.astype(np.float64), (0, max(0, size - len(sound))))
    pieces = np.stack([padded[start : start + size] for start in starts]) * np.hanning(size)
    levels = np.abs(np.fft.rfft(pieces, axis=1))[:, :SPECTRA] / (size / 4)
    decibels = 20 * np.log10(np.maximum(levels, 1e-9))
    grey = (255 * np.clip(1 - decibels / FLOOR_DB, 0, 1)).astype(np.uint8)
    return np.repeat(grey.T[::-1, :, None], 3, axis=2)
