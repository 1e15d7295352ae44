"""A picture of a film with sound: frames, waveform and spectrogram above one axis of time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from selfflow_robotics.evaluation.contact_sheet import spectrogram_picture
from selfflow_robotics.evaluation.video import write_png

WIDTH, WAVE_PX, SPECTRUM_PX = 1200, 90, 192
TEXT_PX, GAP = 14, 4
SEEN, HEARD = (220, 40, 40), (40, 110, 230)  # colours of marks


def write_film_picture(
    path: Path,
    frames: np.ndarray,
    fps: float,
    sound: np.ndarray,
    sample_rate: int,
    title: str,
    seen: Sequence[float] = (),
    heard: Sequence[float] = (),
) -> None:
    """Write a PNG of frames uint8 [T, H, W, 3] and a sound float [samples] in [-1, 1].

    Frames stand where they are shown; where there is no room, some are left out. `seen` and `heard`
    are times in s, marked by red lines in the frames and blue ones in the waveform. Raises OSError.
    """
    seconds = max(len(frames) / fps, len(sound) / sample_rate)
    strip = _strip(frames, fps, seconds)
    tops = np.cumsum([0, TEXT_PX + GAP, len(strip) + GAP, WAVE_PX + GAP, SPECTRUM_PX + GAP])
    picture = Image.new("RGB", (WIDTH, int(tops[-1]) + TEXT_PX), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT_PX - 3)
    draw.text(
        (2, 0), f"{title} (red: seen, blue: heard)" if seen or heard else title, "black", font
    )
    picture.paste(Image.fromarray(strip), (0, int(tops[1])))
    padded = np.pad(sound, (0, max(0, round(seconds * sample_rate) - len(sound))))
    _draw_wave(draw, padded, int(tops[2]))
    spectrum = Image.fromarray(spectrogram_picture(padded, WIDTH))
    picture.paste(spectrum.resize((WIDTH, SPECTRUM_PX)), (0, int(tops[3])))
    for times, colour, (top, bottom) in (
        (seen, SEEN, tops[1:3]), (heard, HEARD, tops[2:4]),
    ):  # fmt: skip
        for time in times:
            x = time / seconds * WIDTH
            draw.line((x, int(top), x, int(bottom) - GAP), colour, 2)
    for tick in np.arange(0, seconds, _distance(seconds)):
        draw.text((tick / seconds * WIDTH + 2, int(tops[4])), f"{tick:g} s", "black", font)
    write_png(path, picture)


def _strip(frames: np.ndarray, fps: float, seconds: float) -> np.ndarray:
    """uint8 [h, WIDTH, 3]: each frame begins where it is shown."""
    count, height, width = frames.shape[:3]
    every = max(1, round(width / height * 80 / (WIDTH / seconds / fps)))  # about 80 px high
    room = int(every * WIDTH / seconds / fps)
    high = round(room * height / width)
    strip = np.full((high, WIDTH, 3), 255, np.uint8)
    for number in range(0, count, every):
        left = int(number / fps / seconds * WIDTH)
        shown = Image.fromarray(frames[number]).resize((room - 2, high), Image.Resampling.NEAREST)
        part = np.asarray(shown)[:, : WIDTH - left]
        strip[:, left : left + part.shape[1]] = part
    return strip


def _draw_wave(draw: ImageDraw.ImageDraw, sound: np.ndarray, top: int) -> None:
    """The range of the samples of each column."""
    middle = top + WAVE_PX / 2
    edges = np.linspace(0, len(sound), WIDTH + 1).astype(int)
    for x in range(WIDTH):
        part = sound[edges[x] : max(edges[x] + 1, edges[x + 1])]
        low, high = (middle - float(y) * WAVE_PX / 2 for y in (part.max(), part.min()))
        draw.line((x, low, x, high), (60, 60, 60))


def _distance(seconds: float) -> float:
    """Of ticks: at most ten of them."""
    return next(d for d in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, seconds) if seconds <= 10 * d)
