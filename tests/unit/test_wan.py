"""Wan's video autoencoder through diffusers, at a tiny size with random weights."""

import json

import pytest
import torch

from selfflow_robotics.autoencoders.load import (
    AutoencoderConfig,
    load_autoencoder,
    load_video_autoencoder,
)
from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import torch_generator

diffusers = pytest.importorskip("diffusers", reason="the extra 'video' is not installed")
pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl_wan")


def write_wan(folder, seed=0, **changes):
    """A tiny AutoencoderKLWan of Wan 2.2's kind: 4 channels, 16 px and 4 frames a latent."""
    torch.manual_seed(seed)
    settings = {
        "base_dim": 8,
        "decoder_base_dim": 8,
        "z_dim": 4,
        "dim_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True, True],
        "latents_mean": [0.1, -0.2, 0.3, 0.0],
        "latents_std": [0.5, 1.0, 2.0, 0.7],
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
    }
    network = diffusers.AutoencoderKLWan(**{**settings, **changes})
    network.save_pretrained(folder)
    return network


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan")
    write_wan(folder)
    return folder


def load(folder):
    return load_video_autoencoder(AutoencoderConfig("wan", str(folder)))


@pytest.fixture
def clips():
    shape, generator = (2, 9, 32, 48, 3), torch_generator("test", 0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_encoding_is_diffusers_mean_normalised(wan_folder, clips):
    wan = load(wan_folder)
    latents = wan.encode(clips)
    theirs = diffusers.AutoencoderKLWan.from_pretrained(wan_folder)
    with torch.no_grad():
        mean = theirs.encode(clips.permute(0, 4, 1, 2, 3) / 127.5 - 1).latent_dist.mean
    centre = torch.tensor([0.1, -0.2, 0.3, 0.0]).view(1, 4, 1, 1, 1)
    spread = torch.tensor([0.5, 1.0, 2.0, 0.7]).view(1, 4, 1, 1, 1)
    assert latents.shape == (2, 3, 4, 2, 3)
    torch.testing.assert_close(latents, ((mean - centre) / spread).transpose(1, 2))
    assert (wan.channels, wan.downsample, wan.stride) == (4, 16, 4)


def test_decoding_gives_back_every_frame(wan_folder):
    latents = torch.randn(2, 3, 4, 2, 3, generator=torch_generator("test", 1))
    decoded = load(wan_folder).decode(latents)
    theirs = diffusers.AutoencoderKLWan.from_pretrained(wan_folder)
    centre = torch.tensor([0.1, -0.2, 0.3, 0.0]).view(1, 4, 1, 1, 1)
    spread = torch.tensor([0.5, 1.0, 2.0, 0.7]).view(1, 4, 1, 1, 1)
    with torch.no_grad():
        planes = theirs.decode(latents.transpose(1, 2) * spread + centre).sample
    expected = ((planes.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 4, 1)
    assert decoded.dtype == torch.uint8
    assert decoded.shape == (2, 9, 32, 48, 3)
    assert (decoded == expected).all()


def test_no_latent_frame_knows_what_comes_after_it(wan_folder, clips):
    wan = load(wan_folder)
    whole = wan.encode(clips)
    torch.testing.assert_close(wan.encode(clips[:, :1]), whole[:, :1])
    torch.testing.assert_close(wan.encode(clips[:, :5]), whole[:, :2])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 8, 32, 32, 3), "use 4n \\+ 1 frames"),
        ((1, 5, 24, 32, 3), "divisible by 16 px"),
    ],
)
def test_sizes_must_fit(wan_folder, shape, message):
    with pytest.raises(UserError, match=message):
        load(wan_folder).encode(torch.zeros(shape, dtype=torch.uint8))


def test_a_whole_pipelines_folder_will_do(wan_folder, tmp_path):
    write_wan(tmp_path / "vae")
    assert load(tmp_path).fingerprint == load(wan_folder).fingerprint


def test_statistics_of_other_channels_are_refused(tmp_path):
    write_wan(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "latents_std": [1.0]}))
    with pytest.raises(UserError, match="4 channels, but latents_mean"):
        load(tmp_path)


def test_pictures_and_clips_are_told_apart(wan_folder):
    with pytest.raises(UserError, match="encodes clips"):
        load_autoencoder(AutoencoderConfig("wan", str(wan_folder)))
    with pytest.raises(UserError, match="encodes single images"):
        load_video_autoencoder(AutoencoderConfig("pixel"))
