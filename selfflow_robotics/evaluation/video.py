"""Write MP4 videos and grids of frames."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from einops import rearrange
from PIL import Image

from selfflow_robotics.evaluation.results import write_whole

MIN_SHOWN_HEIGHT = 240  # px; smaller frames are enlarged by an integer factor


def enlarge(frames: np.ndarray, min_height: int = MIN_SHOWN_HEIGHT) -> np.ndarray:
    """uint8 [..., H, W, 3] with each pixel repeated until H reaches `min_height`."""
    factor = max(1, -(-min_height // frames.shape[-3]))
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write uint8 [T, H, W, 3] as H.264 (MPEG-4 part 2 if ffmpeg has no H.264).

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
        for frame in frames:
            image = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(frame[:height, :width]), format="rgb24"
            )
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, film.getvalue())


def write_grid(path: Path, frames: np.ndarray, columns: int) -> None:
    """Write frames uint8 [N, H, W, 3] as rows of `columns` images, as PNG; N must fill the rows."""
    rows = enlarge(np.asarray(frames, np.uint8), 128)
    grid = rearrange(rows, "(r c) h w d -> (r h) (c w) d", c=columns)
    picture = io.BytesIO()
    Image.fromarray(grid).save(picture, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, picture.getvalue())
