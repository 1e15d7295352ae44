"""Sounds and their files, for tests."""

import io

import av
import numpy as np

RATE = 16_000


def ringing(seconds=2.0, rate=RATE, starts=(0.2, 0.9, 1.5), frequency=700.0):
    """A struck body: decaying sines that begin at these times (s); float32."""
    sound = np.zeros(round(seconds * rate), np.float32)
    t = np.arange(rate // 5) / rate
    hit = 0.5 * np.exp(-30 * t) * np.sin(2 * np.pi * frequency * t)
    for start in starts:
        place = round(start * rate)
        part = hit[: len(sound) - place]
        sound[place : place + len(part)] += part
    return sound


def encoded(channels, rate=RATE, codec="pcm_s16le", kind="wav", sample_format="s16"):
    """The bytes of an audio file of float [C, samples] in [-1, 1]."""
    channels = np.atleast_2d(np.asarray(channels, np.float32))
    file = io.BytesIO()
    layout = {1: "mono", 2: "stereo"}[len(channels)]
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.format = sample_format
        frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for part in av.AudioResampler(sample_format, layout, rate).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    return file.getvalue()
