"""Clips out of video files, by their time stamps, and folders of captioned ones."""

import io
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from selfflow_robotics.data.captioned_files import list_media
from selfflow_robotics.data.films import lossless_mp4
from selfflow_robotics.data.skips import Unusable
from selfflow_robotics.data.videos import VIDEOS, ClipShape
from selfflow_robotics.errors import UserError

SIZE = (16, 24)


def level(frame):
    """What a frame of one grey shows."""
    return int(np.median(frame))


def grey(value):
    return np.full((*SIZE, 3), value, np.uint8)


def timed_video(times_ms, values, suffix="mp4"):
    """A file whose frames have these time stamps; frame k is grey, `values[k]`."""
    film = io.BytesIO()
    with av.open(film, "w", format={"webm": "webm"}.get(suffix, suffix)) as container:
        name = {"mp4": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4"}[suffix]
        stream = container.add_stream(name, rate=1000)
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time, value in zip(times_ms, values, strict=True):
            frame = av.VideoFrame.from_ndarray(grey(value), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return film.getvalue()


TIMES = [0, 40, 400, 430, 900, 1000, 1010, 1500]
VALUES = [10, 40, 70, 100, 130, 160, 190, 220]


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_frames_are_those_shown_at_their_times(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(timed_video(TIMES, VALUES, suffix))
    clip = ClipShape(frames=7, fps=4.0, image_size=SIZE).read(path)  # 0, 250, ... 1500 ms
    assert clip.shape == (7, *SIZE, 3)
    assert clip.dtype == np.uint8
    wanted = [40, 40, 100, 100, 160, 190, 220]
    wanted[0] = 10
    assert np.abs(np.array([level(frame) for frame in clip]) - wanted).max() <= 4


def test_a_constant_rate_is_resampled_up_and_down(tmp_path):
    frames = np.stack([grey(10 * k) for k in range(12)])
    (tmp_path / "a.mp4").write_bytes(lossless_mp4(frames, 12))
    every = ClipShape(12, 12, SIZE).read(tmp_path / "a.mp4")
    assert (every == frames).all()
    assert [level(f) for f in ClipShape(4, 4, SIZE).read(tmp_path / "a.mp4")] == [0, 30, 60, 90]
    twice = ClipShape(24, 24, SIZE).read(tmp_path / "a.mp4")  # the last frame lasts, too
    assert [level(f) for f in twice] == [10 * (k // 2) for k in range(24)]
    with pytest.raises(Unusable, match="too short"):
        ClipShape(13, 12, SIZE).read(tmp_path / "a.mp4")


def test_gifs_are_videos(tmp_path):
    pictures = [Image.fromarray(grey(value)) for value in (0, 100, 200)]
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[100, 300, 200]
    )
    clip = ClipShape(5, 10, SIZE).read(tmp_path / "a.gif")
    assert [level(frame) for frame in clip] == [0, 100, 100, 100, 200]


def test_frames_are_cropped_to_the_size(tmp_path):
    frames = np.zeros((2, 16, 32, 3), np.uint8)
    frames[:, :, 12:20] = 255  # the middle
    (tmp_path / "a.mp4").write_bytes(lossless_mp4(frames, 2))
    clip = ClipShape(2, 2, (8, 8)).read(tmp_path / "a.mp4")
    assert clip.shape == (2, 8, 8, 3)
    assert clip[0, :, 3:5].min() > 200
    assert clip[0, :, 0].max() < 60


def _no_video():
    film = io.BytesIO()
    with av.open(film, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return film.getvalue()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "unreadable video"),
        (b"no video", "unreadable video"),
        (timed_video(TIMES, VALUES)[:400], "unreadable video"),
        (_no_video(), "no frames"),
        (timed_video([0, 100], [1, 2]), "too short"),
    ],
)
def test_what_cannot_be_used_has_a_cause(tmp_path, content, cause):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(Unusable, match=cause):
        ClipShape(4, 4.0, SIZE).read(tmp_path / "a.mp4")


def test_a_pipe_is_an_os_error(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(OSError, match="not a regular file"):
        ClipShape(4, 4.0, SIZE).read(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "settings", [{"frames": 0}, {"frames": 5000}, {"fps": 0.0}, {"fps": float("nan")},
                 {"image_size": (0, 8)}]
)  # fmt: skip
def test_absurd_clips_are_refused(settings):
    with pytest.raises(UserError):
        ClipShape(**settings)


def test_folders_list_captioned_videos_and_count_the_others(tmp_path):
    film = lossless_mp4(np.stack([grey(9)] * 4), 4)
    files = {
        "b/one.mp4": film, "b/one.txt": b"a grey clip\nanother caption\n", "b/one.wav": b"1234",
        "two.gif": b"GIF", "two.json": b'["two"]', "none.mp4": film, "empty.avi": film,
        "empty.txt": b"\n", "bad.webm": film, "bad.txt": b"\xff", ".hidden.mp4": film,
        "note.md": b"x",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    media = list_media(tmp_path, VIDEOS, {"frames": ClipShape(4, 4.0, SIZE)})
    assert [(item.file, item.sound) for item in media.items] == [
        ("b/one.mp4", "b/one.wav"), ("two.gif", ""),
    ]  # fmt: skip
    assert media.captions == [("a grey clip", "another caption"), ("two",)]
    assert media.skips.counts == {"no caption": 1, "empty caption": 1, "bad caption file": 1}
    assert media.num_found == 5
    assert (media.read(0)["frames"] == 9).all()
    assert media.part(1, 9).name(0) == "two.gif"
    before = media.record()["fingerprint"]
    (tmp_path / "two.json").write_text('["three"]')
    again = list_media(tmp_path, VIDEOS, {"frames": ClipShape(4, 4.0, SIZE)})
    assert again.record()["fingerprint"] != before


def test_folders_without_captioned_videos_are_one_line(tmp_path):
    readers = {"frames": ClipShape()}
    with pytest.raises(UserError, match="is no folder"):
        list_media(tmp_path / "nowhere", VIDEOS, readers)
    with pytest.raises(UserError, match="no files in"):
        list_media(tmp_path, VIDEOS, readers)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"no file in .* has captions \(1 no caption\)"):
        list_media(tmp_path, VIDEOS, readers)
