"""Rows of clips and sounds: shapes for video autoencoders, damaged and foreign caches."""

import json

import numpy as np
import pytest
import torch

from selfflow_robotics.autoencoders.latent import PixelLatents
from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.autoencoders.spectrogram import Spectrogram
from selfflow_robotics.data.captioned_files import list_media
from selfflow_robotics.data.films import lossless_mp4
from selfflow_robotics.data.latents import LatentReader
from selfflow_robotics.data.latents_encode import Workers
from selfflow_robotics.data.latents_writer import write_latents
from selfflow_robotics.data.media_latents import MediaCoders, MediaEncoding, MediaReader
from selfflow_robotics.data.sounds import SoundShape
from selfflow_robotics.data.videos import VIDEOS, ClipShape
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.latents import VideoLatents


class FourToOne:
    """A video autoencoder in the manner of Wan's: the mean of four frames, at half the size."""

    channels, downsample, stride, fingerprint = 3, 2, 4, "four to one"

    def encode(self, clips):
        first = clips[:, :1].float()
        later = clips[:, 1:].float().unflatten(1, (-1, 4)).mean(2)
        small = torch.cat([first, later], 1)[:, :, ::2, ::2] / 255
        return small.permute(0, 1, 4, 2, 3)


CLIP = ClipShape(9, 8.0, (8, 12))
WAN = MediaCoders(AutoencoderConfig("wan"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for number in range(3):
        frames = np.full((9, 8, 12, 3), 20 * number, np.uint8)
        frames[5:] += 100
        (root / f"{number}.mp4").write_bytes(lossless_mp4(frames, 8))
        (root / f"{number}.txt").write_text(f"clip {number}")
    return root


def write(folder, output, clip=CLIP, coder=None):
    source = list_media(folder, VIDEOS, {"frames": clip})
    return write_latents(
        source, output, {"frames": coder or FourToOne()}, Workers(WAN), MediaEncoding(clip),
        shard_size=2,
    )  # fmt: skip


def test_video_autoencoders_shorten_the_time(folder, tmp_path):
    assert write(folder, tmp_path / "out").num_pictures == 3
    reader = MediaReader(str(tmp_path / "out"), ("frames",))
    frames = reader.read([2, 0])["frames"]
    assert frames.shape == (2, 3, 3, 4, 6)
    assert np.abs(frames[0, :, 0, 0, 0] - np.array([40, 40, 140]) / 255).max() < 1e-3
    assert (reader.steps("frames"), reader.clip_frames, reader.fps) == (3, 9, 8.0)
    codec = reader.frame_codec(2)
    assert isinstance(codec, VideoLatents)
    assert (codec.downsample, codec.channels, codec.image_size) == (2, 12, (8, 12))
    assert reader.all_captions() == {"clip 0", "clip 1", "clip 2"}


@pytest.mark.parametrize(
    ("clip", "message"),
    [(ClipShape(8, 8.0, (8, 12)), "multiple of 4"), (ClipShape(9, 8.0, (7, 12)), "multiple of 2")],
)
def test_sizes_must_fit_the_autoencoder(folder, tmp_path, clip, message):
    with pytest.raises(UserError, match=message):
        write(folder, tmp_path / "out", clip)


def test_sounds_are_whole_numbers_of_latents():
    encoding = MediaEncoding(sound=SoundShape(0.05, 8000, 0.01))
    with pytest.raises(UserError, match="whole number of latents"):
        encoding.dtype({"sound": Spectrogram(8000)}, False)
    dtype = MediaEncoding(sound=SoundShape(0.4, 8000)).dtype({"sound": Spectrogram(8000)}, False)
    assert dtype["sound"].shape == (10, 64)


def test_another_clip_is_never_continued(folder, tmp_path):
    write(folder, tmp_path / "out")
    with pytest.raises(UserError, match="a different clip or sound"):
        write(folder, tmp_path / "out", ClipShape(5, 8.0, (8, 12)))
    with pytest.raises(UserError, match="a different autoencoder"):
        write(folder, tmp_path / "out", ClipShape(9, 8.0, (8, 12)), PixelLatents())


def test_readers_refuse_other_kinds(folder, tmp_path):
    write(folder, tmp_path / "out")
    with pytest.raises(UserError, match=r"clips or sounds, not of images"):
        LatentReader(tmp_path / "out")
    with pytest.raises(UserError, match=r"frames, not of frames and sound"):
        MediaReader(str(tmp_path / "out"), ("frames", "sound"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r["parts"]["frames"].update(shape=[3, 3, 4]),
        lambda r: r["parts"]["frames"].update(shape=[3, 3, 4, 0]),
        lambda r: r["parts"]["frames"].update(shape=[3, 3, 4, 1 << 40]),
        lambda r: r["parts"]["frames"].update(fps="fast"),
        lambda r: r["parts"]["frames"].update(fps=-1),
        lambda r: r["parts"]["frames"].pop("downsample"),
        lambda r: r.update(parts={}),
        lambda r: r.update(parts=[]),
        lambda r: r["shards"][0].pop("captions"),
    ],
)
def test_a_damaged_record_is_one_line(folder, tmp_path, spoil):
    write(folder, tmp_path / "out")
    record = json.loads((tmp_path / "out/cache.json").read_text())
    spoil(record)
    (tmp_path / "out/cache.json").write_text(json.dumps(record))
    with pytest.raises(UserError):
        MediaReader(str(tmp_path / "out"), ("frames",)).read([0])
