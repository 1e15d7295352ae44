"""Reading sounds: scale, rate, length, and what is refused; films with sound."""

import io

import av
import numpy as np
import pytest
from scipy.io import wavfile

from selfflow_robotics.data.films import lossless_mp4, wav_bytes
from selfflow_robotics.data.skips import Unusable
from selfflow_robotics.data.sounds import SoundShape
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.video import write_video
from tests.sounds import RATE, encoded, ringing

SHAPE = SoundShape(2.0, RATE)


def scipy_wav(samples, rate=RATE):
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def lag(sound, other):
    """Samples that `sound` comes after `other`."""
    return np.correlate(sound, other, "full").argmax() - (len(other) - 1)


def test_every_wav_has_the_same_scale():
    sound = ringing()
    levels = np.int64(np.round(sound.astype(np.float64) * 2**31))
    files = {
        "float": scipy_wav(sound),
        "double": scipy_wav(sound.astype(np.float64)),
        "16 bits": scipy_wav((levels >> 16).astype(np.int16)),
        "32 bits": scipy_wav(levels.astype(np.int32)),
        "24 bits": encoded(sound, codec="pcm_s24le", sample_format="s32"),
        "ours": wav_bytes(sound, RATE),
    }
    for name, file in files.items():
        read = SHAPE.read(file)
        assert read.dtype == np.float32
        assert np.abs(read - sound).max() < 1e-4, name
    eight = SHAPE.read(scipy_wav(np.uint8(np.round(sound * 127) + 128)))
    assert np.abs(eight - sound).max() < 0.01


def test_our_wav_is_read_by_others():
    rate, levels = wavfile.read(io.BytesIO(wav_bytes(np.array([0.0, 0.5, -1.0, 2.0]), 8000)))
    assert rate == 8000
    assert levels.tolist() == [0, 16384, -32768, 32767]


@pytest.mark.parametrize(
    ("codec", "kind", "sample_format", "error"),
    [("flac", "flac", "s16", 1e-4), ("libmp3lame", "mp3", "fltp", 0.05),
     ("libopus", "ogg", "flt", 0.05)],
)  # fmt: skip
def test_compressed_files_are_read_in_time(codec, kind, sample_format, error):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    sound = ringing()
    read = SHAPE.read(encoded(sound, codec=codec, kind=kind, sample_format=sample_format))
    assert read.shape == sound.shape
    assert lag(read, sound) == 0
    assert np.abs(read - sound).max() < error


def test_another_rate_is_resampled():
    t = np.arange(2 * 44_100) / 44_100
    file = encoded(0.5 * np.sin(2 * np.pi * 440 * t), rate=44_100)
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    read = SHAPE.read(file)
    assert len(read) == 2 * RATE
    assert np.abs(read - wanted)[100:-100].max() < 2e-3


def test_channels_are_averaged():
    left, right = ringing(), ringing(frequency=300)
    read = SHAPE.read(encoded([left, right]))
    assert np.abs(read - (left + right) / 2).max() < 1e-4


def test_sounds_are_cut_and_padded_at_the_end():
    sound = ringing()
    short = SHAPE.read(encoded(sound[: RATE // 2]))
    assert np.abs(short[: RATE // 2] - sound[: RATE // 2]).max() < 1e-4
    assert len(short) == 2 * RATE
    assert not short[RATE // 2 :].any()
    cut = SoundShape(0.5, RATE).read(encoded(sound))
    assert np.abs(cut - sound[: RATE // 2]).max() < 1e-4


def noise(seconds, scale=0.3):
    return scale * np.random.default_rng(0).standard_normal(round(seconds * RATE))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "unreadable sound"),
        (b"no sound at all" * 100, "unreadable sound"),
        (wav_bytes(noise(0.05), RATE), "too short"),
        (wav_bytes(np.zeros(2 * RATE), RATE), "silent"),
        (wav_bytes(noise(2.0, 1e-5), RATE), "silent"),
        (wav_bytes(noise(2.0, 0.6), RATE), "clipped"),
        (scipy_wav(np.float32(3 * noise(2.0))), "clipped"),
        (scipy_wav(np.full(2 * RATE, np.nan, np.float32)), "not finite"),
        (lossless_mp4(np.zeros((3, 16, 16, 3), np.uint8), 10), "no audio stream"),
    ],
)
def test_unusable_sounds_have_a_cause(content, cause):
    with pytest.raises(Unusable) as caught:
        SHAPE.read(content)
    assert str(caught.value) == cause


def test_a_few_samples_at_full_scale_are_fine():
    sound = ringing()
    sound[:200] = 1.0
    assert SHAPE.read(wav_bytes(sound, RATE)).max() > 0.999


def test_a_truncated_file_is_what_is_left_of_it():
    whole = wav_bytes(ringing(), RATE)
    read = SHAPE.read(whole[: len(whole) // 2])
    assert not read[RATE + 100 :].any()
    assert np.abs(read[: RATE - 100] - ringing()[: RATE - 100]).max() < 1e-4


def test_a_missing_file_is_an_os_error(tmp_path):
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(OSError, match=path.name):
            SHAPE.read(path)


@pytest.mark.parametrize(
    "settings",
    [{"seconds": 0.0}, {"seconds": 1e6}, {"sample_rate": 10}, {"sample_rate": 10**6},
     {"least_seconds": 3.0}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=f"sound.{next(iter(settings))}"):
        SoundShape(**settings)


def test_a_film_with_sound_gives_back_both(tmp_path):
    frames = np.zeros((25, 48, 64, 3), np.uint8)
    frames[:, :, :32] = np.arange(25, dtype=np.uint8)[:, None, None, None] * 10
    sound = ringing()
    write_video(tmp_path / "a.mp4", frames, 12.5, sound, RATE)
    read = SHAPE.read(tmp_path / "a.mp4")
    assert lag(read, sound) == 0
    assert np.abs(read - sound).max() < 0.02
    with av.open(str(tmp_path / "a.mp4")) as film:
        seen = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(seen) == 25
    np.testing.assert_allclose([x[100, 50].mean() for x in seen], np.arange(25) * 10, atol=8)


@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_a_sound_begins_with_the_first_frame(shift):
    sound, film = ringing(), io.BytesIO()
    with av.open(film, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10)
        audio = container.add_stream("flac", rate=RATE, layout="mono")
        video.width = video.height = 16
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        for number in range(20):
            picture.pts = number + (round(-10 * shift) if shift < 0 else 0)
            container.mux(video.encode(picture))
        levels = np.int16(sound * 32767)[None]
        frame = av.AudioFrame.from_ndarray(levels, format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, round(max(0.0, shift) * RATE)
        container.mux([*video.encode(), *audio.encode(frame), *audio.encode()])
    assert lag(SHAPE.read(film.getvalue()), sound) == round(shift * RATE)


def test_a_sound_that_begins_after_hours_is_silent_before():
    film = io.BytesIO()
    with av.open(film, "w", format="matroska") as container:
        video = container.add_stream("mpeg4", rate=10)
        audio = container.add_stream("flac", rate=RATE, layout="mono")
        video.width = video.height = 16
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        picture.pts = 0
        frame = av.AudioFrame.from_ndarray(np.int16(noise(0.5, 0.1) * 32767)[None], "s16", "mono")
        frame.sample_rate, frame.pts = RATE, 10**7 * RATE  # four months: 640 GB of silence
        container.mux([*video.encode(picture), *video.encode(), *audio.encode(frame)])
        container.mux(audio.encode())
    with pytest.raises(Unusable, match="silent"):
        SHAPE.read(film.getvalue())


def test_a_lossless_film_is_exact():
    frames = np.random.default_rng(0).integers(0, 256, (5, 18, 22, 3), np.uint8)
    content = lossless_mp4(frames, 12.5)
    assert content == lossless_mp4(frames, 12.5)
    with av.open(io.BytesIO(content)) as film:
        assert film.streams.video[0].average_rate == 12.5
        seen = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert (np.stack(seen) == frames).all()
