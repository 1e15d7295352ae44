"""Sounds out of audio and video files: mono, of a fixed length, at a fixed rate.

Files are what FFmpeg reads (PyAV): WAV, FLAC, MP3, Ogg, and the first audio stream of videos.
Several channels are averaged. The sound of a video starts with its first frame. A longer sound is
cut after `seconds`, a shorter one is padded with silence at its end. Integers of any width and
floats have the same scale, [-1, 1]; floats beyond it are clipped.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

from selfflow_robotics.data.skips import Unusable
from selfflow_robotics.errors import UserError, check_least

SOUNDS = (".wav", ".flac", ".mp3", ".ogg")
LEAST_RATE, MOST_RATE = 1000, 192_000  # Hz
MOST_SECONDS = 3600.0
FULL_SCALE = 0.999  # amplitudes from here on count as clipped
MOST_CLIPPED = 0.01  # share of the samples
SILENCE = 1e-4  # largest amplitude of what counts as silent: -80 dB


@dataclass(frozen=True)
class SoundShape:
    """The sound that is read from the beginning of each file."""

    seconds: float = 2.0
    sample_rate: int = 16_000  # Hz
    least_seconds: float = 0.1  # shorter files are unusable

    def __post_init__(self) -> None:
        check_least(self, LEAST_RATE, "sample_rate", prefix="sound.")
        if self.sample_rate > MOST_RATE:
            raise UserError(
                f"sound.sample_rate must be at most {MOST_RATE} Hz, got {self.sample_rate}"
            )
        if not 0 < self.least_seconds <= self.seconds <= MOST_SECONDS:
            raise UserError(
                f"sound.seconds must be from sound.least_seconds={self.least_seconds:g} to "
                f"{MOST_SECONDS:g}, got {self.seconds:g}"
            )

    @property
    def samples(self) -> int:
        return round(self.seconds * self.sample_rate)

    def read(self, file: Path | bytes) -> np.ndarray:
        """The sound of a file, or of its content: float32 [samples] in [-1, 1].

        Raises OSError, and Unusable: "unreadable sound", "no audio stream", "too short" (than
        `least_seconds`), "not finite", "clipped" (more than `MOST_CLIPPED` of the samples at full
        scale), or "silent" (within `seconds`).
        """
        if isinstance(file, Path) and not file.is_file():  # a pipe would wait for a writer
            raise OSError(f"{file} is not a regular file")
        try:
            content = io.BytesIO(file) if isinstance(file, bytes) else os.fspath(file)
            with av.open(content) as source:
                assert isinstance(source, InputContainer)
                if not source.streams.audio:
                    raise Unusable("no audio stream")
                sound = self._joined(source)
        except (FileNotFoundError, PermissionError):
            raise
        except (av.error.FFmpegError, ValueError):  # the latter: its format changes midway
            raise Unusable("unreadable sound") from None
        if len(sound) < self.least_seconds * self.sample_rate:
            raise Unusable("too short")
        sound = sound[: self.samples].clip(-1, 1)
        if np.abs(sound).max() < SILENCE:
            raise Unusable("silent")
        return np.pad(sound, (0, self.samples - len(sound)))

    def _joined(self, source: InputContainer) -> np.ndarray:
        """Mono samples at the wanted rate, float32, as many as are needed. Raises Unusable."""
        resampler = av.AudioResampler(format="fltp", rate=self.sample_rate)
        blocks, clipped, read, length, lead = [], 0, 0, 0, None
        for frame in _frames(source):
            if lead is None:  # damaged files have leads of years
                lead = min(round(self.sample_rate * _lead(frame, source)), self.samples)
            given = _scaled(frame)
            if not np.isfinite(given).all():
                raise Unusable("not finite")
            clipped += int((np.abs(given) >= FULL_SCALE).sum())
            read += given.size
            mono = [part.to_ndarray().mean(0) for part in resampler.resample(frame)]
            blocks += mono
            length += sum(map(len, mono))
            if length + lead >= self.samples:
                break
        else:
            blocks += [part.to_ndarray().mean(0) for part in resampler.resample(None)]
        if clipped > MOST_CLIPPED * read:
            raise Unusable("clipped")
        sound = np.concatenate([np.zeros(max(0, lead or 0), np.float32), *blocks])
        return sound[max(0, -(lead or 0)) :]


def _frames(container: InputContainer) -> Iterator[av.AudioFrame]:
    stream = container.streams.audio[0]
    stream.codec_context.thread_count = 1  # processes share the cores
    yield from container.decode(stream)


def _lead(frame: av.AudioFrame, source: InputContainer) -> float:
    """Seconds from the first frame of the video, if there is one, to the first sample."""
    films = [s for s in source.streams.video if not s.disposition & Disposition.attached_pic]
    if not films or frame.time is None:
        return 0.0
    start, base = films[0].start_time, films[0].time_base
    return frame.time - (float(start * base) if start and base else 0.0)


def _scaled(frame: av.AudioFrame) -> np.ndarray:
    """The samples of all channels on the scale [-1, 1]."""
    samples: np.ndarray = frame.to_ndarray()
    if samples.dtype.kind == "f":
        return samples
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    return samples / -float(np.iinfo(samples.dtype).min)
