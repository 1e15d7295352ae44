"""What every codec promises: there and back, its places, its record, and what it refuses."""

import json
from dataclasses import replace

import pytest
import torch

from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.actions import Actions
from selfflow_robotics.modalities.base import slot_of
from selfflow_robotics.modalities.latents import (
    ImageLatents,
    Latents,
    LatentsBehindPixels,
    VideoLatents,
)
from selfflow_robotics.modalities.load import CODECS, codec_from_json, codec_to_json
from selfflow_robotics.modalities.pixels import PixelPatches
from selfflow_robotics.modalities.sound import SoundLatents
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.robot.normalize import NormStats

FRAMES = {"pixels", "pixel_latents", "mixed", "sd_vae", "rae", "wan"}


def _folder(tmp_path, kind, seed):
    pytest.importorskip("diffusers", reason="the extra 'images' is not installed")
    folder = tmp_path / f"{kind}-{seed}"
    if folder.exists():
        return str(folder)
    if kind == "sd_vae":
        from tests.unit.test_sd_vae import write_vae

        write_vae(folder, seed)
    elif kind == "rae":
        pytest.importorskip("transformers", reason="the extra 'rae' is not installed")
        from tests.unit.test_rae import write_rae

        write_rae(folder, seed)
    else:
        from tests.unit.test_wan import write_wan

        write_wan(folder, seed)
    return str(folder)


def make(kind, tmp_path, seed=0):
    """A codec of 32 x 32 px frames, of actions or of sounds; another seed means other weights."""
    if kind == "pixels":
        return PixelPatches((32, 32), 16 if seed == 0 else 8)
    if kind == "actions":
        steps = torch.randn(50, 7, generator=torch_generator("test", seed)).numpy()
        return Actions(NormStats.compute(steps, 2))
    if kind == "sound":
        return SoundLatents.create(AutoencoderConfig("mdct" if seed == 0 else "spectrogram"))
    if kind in ("pixel_latents", "mixed"):
        codec = LatentsBehindPixels if kind == "mixed" else ImageLatents
        return codec.create(AutoencoderConfig("pixel"), (32, 32), 8)
    source = AutoencoderConfig(kind, _folder(tmp_path, kind, seed))
    codec = VideoLatents if kind == "wan" else ImageLatents
    return codec.create(source, (32, 32), 32 if kind == "rae" else 16)


def raw_of(kind, count=5, size=32):
    generator = torch_generator("test", count)
    if kind == "actions":
        return 0.01 * torch.randn(2, count, 7, generator=generator)
    if kind == "sound":
        return 0.1 * torch.randn(2, 640 * count, generator=generator)
    shape = (2, count, size, size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


KINDS = [*sorted(FRAMES), "actions", "sound"]


def test_no_codec_is_left_out(tmp_path):
    assert {make(kind, tmp_path).kind for kind in KINDS} == set(CODECS)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_have_their_channels_and_places(kind, tmp_path):
    codec = make(kind, tmp_path)
    tokens = codec.encode(raw_of(kind))
    count = {"wan": 2}.get(kind, 5)  # latent frames of 5 frames
    assert tokens.dtype == torch.float32
    assert tokens.shape == (2, count * codec.tokens_per_step, codec.channels)
    places = codec.places(count)
    assert places.shape == (tokens.shape[1], 3)
    assert places.dtype == torch.int64
    assert places[:: codec.tokens_per_step, 0].tolist() == list(range(count))
    assert len(places.unique(dim=0)) == len(places)
    later = slot_of("later_frames", codec, tokens[:, codec.tokens_per_step :])
    assert later.places[0].tolist() == [1, 0, 0]
    assert codec.prediction == ("data" if kind in ("pixels", "mixed") else "velocity")
    if kind == "mixed":  # clean frames are read from their pixels
        assert codec.view(raw_of(kind)).shape == (*tokens.shape[:2], 3 * codec.view_patch**2)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_gives_what_was_encoded_its_shape_and_type(kind, tmp_path):
    codec, raw = make(kind, tmp_path), raw_of(kind)
    back = codec.decode(codec.encode(raw))
    assert back.shape == raw.shape
    assert back.dtype == raw.dtype
    if kind in ("pixels", "pixel_latents"):
        assert (back == raw).all()
    if kind == "actions":
        torch.testing.assert_close(codec.decode(codec.encode(raw, clip=False)), raw)


@pytest.mark.parametrize("kind", ["pixel_latents", "sd_vae", "rae", "wan"])
def test_tokens_are_patches_of_the_autoencoders_latents(kind, tmp_path):
    codec, raw = make(kind, tmp_path), raw_of(kind)
    latents = codec.to_latents(codec.encode(raw))
    if kind == "wan":
        expected = codec.autoencoder.encode(raw)
    else:
        expected = torch.stack([codec.autoencoder.encode(clip)[0] for clip in raw])
    torch.testing.assert_close(latents, expected)
    assert (codec.to_tokens(latents) == codec.encode(raw)).all()
    # The first frame of a window is clean, and encoded without those that follow.
    first = codec.encode(raw[:, :1])
    torch.testing.assert_close(first, codec.encode(raw)[:, : codec.tokens_per_step])


@pytest.mark.parametrize("kind", KINDS)
def test_a_codec_comes_back_from_its_record(kind, tmp_path):
    codec, raw = make(kind, tmp_path), raw_of(kind)
    again = codec_from_json(json.loads(json.dumps(codec_to_json(codec))))
    assert (again.kind, again.channels, again.fingerprint) == (
        codec.kind,
        codec.channels,
        codec.fingerprint,
    )
    assert (again.places(2, 1) == codec.places(2, 1)).all()
    if isinstance(again, Latents | SoundLatents):
        with pytest.raises(UserError, match="no autoencoder"):
            again.encode(raw)
        again = again.load("cpu")
    assert (again.encode(raw) == codec.encode(raw)).all()


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("pixel_latents", "mixed")])
def test_the_fingerprint_is_that_of_what_makes_the_tokens(kind, tmp_path):
    prints = [make(kind, tmp_path, seed).fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("kind", ["sd_vae", "rae", "wan"])
def test_other_weights_at_the_same_place_are_refused(kind, tmp_path):
    codec = make(kind, tmp_path)
    other = replace(codec.source, weights=_folder(tmp_path, kind, seed=1))
    with pytest.raises(UserError, match="is no longer the autoencoder"):
        replace(codec, source=other).load("cpu")


@pytest.mark.parametrize("kind", sorted(FRAMES))
def test_frames_of_another_size_are_one_line(kind, tmp_path):
    with pytest.raises(UserError, match="the model was made for") as caught:
        make(kind, tmp_path).encode(raw_of(kind, size=64))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "patch", "message"),
    [
        ((32, 36), 16, "latents of 8 px"),
        ((0, 32), 16, "latents of 8 px"),
        ((32, 32), 24, "patches"),
        ((32, 32), 4, "patch=8"),
        ((32, 32), 20, "patch=8"),
    ],
)
def test_sizes_that_do_not_divide_are_one_line(size, patch, message, tmp_path):
    source = AutoencoderConfig("sd_vae", _folder(tmp_path, "sd_vae", 0))
    with pytest.raises(UserError, match=message):
        ImageLatents.create(source, size, patch)


def test_cached_latents_of_another_autoencoders_shape_are_one_line(tmp_path):
    codec = make("sd_vae", tmp_path)
    with pytest.raises(UserError, match="latents are"):
        codec.to_tokens(torch.zeros(1, 2, 8, 4, 4))


@pytest.mark.parametrize("made", [
    ImageLatents((2, 2), 4, 1, AutoencoderConfig("sd_vae", "here"), "1f", 8),
    VideoLatents((2, 2), 4, 1, AutoencoderConfig("wan", "here"), "1f", 16),
    SoundLatents(4, 8000, 8, AutoencoderConfig("oobleck", "here"), "1f"),
])  # fmt: skip
def test_codecs_are_compared_by_the_content_of_their_weights(made):
    assert replace(made, source=replace(made.source, weights="moved")) == made
    assert replace(made, fingerprint="2f") != made
