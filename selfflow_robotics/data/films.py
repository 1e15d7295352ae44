"""Files of frames and of sounds, in memory: for rendered sets, whose files must be exact."""

import io
import wave
from fractions import Fraction

import av
import numpy as np

from selfflow_robotics.errors import UserError


def lossless_mp4(frames: np.ndarray, fps: float) -> bytes:
    """A video of frames uint8 [T, H, W, 3], H.264 in RGB: reading it gives the same pixels.

    Raises UserError if PyAV was built without it.
    """
    if "libx264rgb" not in av.codecs_available:
        raise UserError("this PyAV has no libx264rgb; install PyPI's package: pip install av")
    film = io.BytesIO()
    with av.open(film, "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        stream.options = {"qp": "0", "preset": "veryfast", "threads": "1"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return film.getvalue()


def wav_bytes(sound: np.ndarray, sample_rate: int) -> bytes:
    """A WAV file, 16 bits, of a sound float [samples] in [-1, 1]; amplitudes beyond are clipped."""
    levels = (sound * 32768).round().clip(-32768, 32767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(levels.tobytes())
    return file.getvalue()
