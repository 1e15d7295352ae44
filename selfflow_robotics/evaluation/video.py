"""Write MP4 videos, with or without sound, and grids of frames."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from einops import rearrange
from PIL import Image

from selfflow_robotics.evaluation.results import write_whole

AUDIO_BIT_RATE = 128_000
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz
MIN_SHOWN_HEIGHT = 240  # px; smaller frames are enlarged by an integer factor


def enlarge(frames: np.ndarray, min_height: int = MIN_SHOWN_HEIGHT) -> np.ndarray:
    """uint8 [..., H, W, 3] with each pixel repeated until H reaches `min_height`."""
    factor = max(1, -(-min_height // frames.shape[-3]))
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def write_video(
    path: Path,
    frames: np.ndarray,
    fps: float,
    sound: np.ndarray | None = None,
    sample_rate: int = 16_000,
) -> None:
    """Write uint8 [T, H, W, 3] as H.264 (MPEG-4 part 2 if ffmpeg has no H.264), and mono `sound`
    float [samples] in [-1, 1], if any, as AAC.

    Enlarged frames are cropped to even sides, which yuv420p needs. Raises ValueError without
    frames, OSError if the file cannot be written; then nothing is left of it.
    """
    if len(frames) == 0:
        raise ValueError("a video needs at least one frame")
    frames = enlarge(np.asarray(frames, np.uint8))
    height, width = (side - side % 2 for side in frames.shape[1:3])
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    film = io.BytesIO()  # ffmpeg does not report an incomplete file
    with av.open(film, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 2_000_000
        if sound is not None:
            _add_sound(container, sound, sample_rate)
        for frame in frames:
            image = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(frame[:height, :width]), format="rgb24"
            )
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, film.getvalue())


def _add_sound(container: OutputContainer, sound: np.ndarray, sample_rate: int) -> None:
    rate = next((rate for rate in AAC_RATES if rate >= sample_rate), AAC_RATES[-1])
    stream = container.add_stream("aac", rate=rate, layout="mono")
    stream.bit_rate = AUDIO_BIT_RATE
    samples = np.ascontiguousarray(sound.clip(-1, 1), np.float32)[None]
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = sample_rate, 0
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
    for given in (frame, None):
        for part in resampler.resample(given):
            container.mux(stream.encode(part))
    container.mux(stream.encode())


def write_grid(path: Path, frames: np.ndarray, columns: int) -> None:
    """Write frames uint8 [N, H, W, 3] as rows of `columns` images, as PNG; N must fill the rows."""
    rows = enlarge(np.asarray(frames, np.uint8), 128)
    grid = rearrange(rows, "(r c) h w d -> (r h) (c w) d", c=columns)
    write_png(path, Image.fromarray(grid))


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a picture, whole or not at all. Raises OSError."""
    content = io.BytesIO()
    picture.save(content, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())
