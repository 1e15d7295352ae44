"""SD-VAE through diffusers, at a tiny size with random weights; and pixels as latents."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfflow_robotics.autoencoders.latent import PixelLatents
from selfflow_robotics.autoencoders.load import AutoencoderConfig, load_autoencoder
from selfflow_robotics.autoencoders.sd_vae import SdVae
from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import torch_generator

pytest.importorskip("diffusers", reason="the extra 'images' is not installed")

WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_vae(folder, seed=0, **changes):
    """A tiny AutoencoderKL with SD-VAE's shape of latents: 4 channels, 8 pixels a side."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8, 8, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 32,
    }
    network = AutoencoderKL(**{**settings, **changes})
    network.save_pretrained(folder)
    return network


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    write_vae(folder)
    return folder


@pytest.fixture
def frames():
    return torch.randint(
        0, 256, (2, 32, 48, 3), dtype=torch.uint8, generator=torch_generator("test", 0)
    )


def test_encoding_is_diffusers_posterior_scaled(vae_folder, frames):
    from diffusers import AutoencoderKL

    mean, std = load_autoencoder(AutoencoderConfig(weights=str(vae_folder))).encode(frames)
    network = AutoencoderKL.from_pretrained(vae_folder)
    with torch.no_grad():
        theirs = network.encode(frames.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    assert mean.shape == std.shape == (2, 4, 4, 6)
    torch.testing.assert_close(mean, theirs.mean * 0.18215)
    torch.testing.assert_close(std, theirs.std * 0.18215)
    assert (std > 0).all()


def test_decoding_is_diffusers_decoder_of_unscaled_latents(vae_folder):
    from diffusers import AutoencoderKL

    latents = torch.randn(2, 4, 4, 4, generator=torch_generator("test", 0))
    decoded = SdVae.load(str(vae_folder), download=False).decode(latents)
    with torch.no_grad():
        theirs = AutoencoderKL.from_pretrained(vae_folder).decode(latents / 0.18215).sample
    expected = ((theirs.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
    assert decoded.dtype == torch.uint8
    assert decoded.shape == (2, 32, 32, 3)
    assert (decoded == expected).all()


def test_autocast_around_it_changes_nothing(vae_folder, frames):
    vae = SdVae.load(str(vae_folder), download=False)
    mean, std = vae.encode(frames)
    decoded = vae.decode(mean)
    with torch.autocast("cpu", torch.bfloat16):
        inside = *vae.encode(frames), vae.decode(mean)
    assert all((a == b).all() for a, b in zip((mean, std, decoded), inside, strict=True))


def test_a_shift_is_taken_off_before_scaling(tmp_path, frames):
    write_vae(tmp_path, shift_factor=0.5)
    mean, _ = SdVae.load(str(tmp_path), download=False).encode(frames)
    write_vae(tmp_path)
    plain, _ = SdVae.load(str(tmp_path), download=False).encode(frames)
    torch.testing.assert_close(mean, plain - 0.5 * 0.18215)


def test_the_weights_old_names_are_understood(vae_folder, tmp_path):
    write_vae(tmp_path)
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, weight in load_file(tmp_path / WEIGHTS).items():
        for now, before in new.items():
            name = name.replace(f".{now}.", f".{before}.")
        renamed[name] = weight
    assert any("proj_attn" in name for name in renamed)
    save_file(renamed, tmp_path / WEIGHTS, metadata={"format": "pt"})
    one, other = (SdVae.load(str(folder), download=False) for folder in (vae_folder, tmp_path))
    assert one.fingerprint == other.fingerprint


def test_the_fingerprint_is_of_settings_and_weights(vae_folder, tmp_path):
    prints = {SdVae.load(str(vae_folder), download=False).fingerprint for _ in range(2)}
    assert len(prints) == 1
    for number, changes in enumerate([{"seed": 1}, {"scaling_factor": 0.5}]):
        write_vae(tmp_path / str(number), **changes)
        prints.add(SdVae.load(str(tmp_path / str(number)), download=False).fingerprint)
    assert len(prints) == 3


def test_sides_must_fit(vae_folder):
    with pytest.raises(UserError, match="divisible by 8 px"):
        SdVae.load(str(vae_folder), download=False).encode(torch.zeros(1, 30, 32, 3))


def _without_weights(folder):
    (folder / WEIGHTS).unlink()


def _cut(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-50])


def _missing_weight(folder):
    weights = load_file(folder / WEIGHTS)
    del weights["decoder.conv_in.weight"]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def _not_a_number(folder):
    weights = load_file(folder / WEIGHTS)
    weights["decoder.conv_in.weight"].view(-1)[3] = torch.nan
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def _other_class(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DModel"}))


def _other_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "latent_channels": 8}))


def _torn_config(folder):
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_weights, "cannot read the autoencoder in"),
        (_cut, "cannot read the autoencoder in"),
        (_torn_config, "cannot read the autoencoder in"),
        (_other_shape, "cannot read the autoencoder in|do not match config"),
        (_not_a_number, r"not finite: decoder\.conv_in\.weight"),
        (_missing_weight, r"do not match config\.json: decoder\.conv_in\.weight"),
        (
            _other_class,
            "has class UNet2DModel; autoencoder=sd_vae needs diffusers' AutoencoderKL",
        ),
    ],
)
def test_an_unfit_folder_is_one_line(tmp_path, capfd, spoil, message):
    write_vae(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        SdVae.load(str(tmp_path), download=False)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_weights_that_are_not_here_are_one_line():
    for name in ("somebody/no-such-vae", "no/such/folder"):
        with pytest.raises(UserError, match=rf"'{name}' were not found; .*download=true"):
            SdVae.load(name, download=False)


def test_pixels_survive_as_latents():
    auto = load_autoencoder(AutoencoderConfig("pixel"))
    frames = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(1, 1, 1, 3)
    mean, std = auto.encode(frames)
    assert mean.shape == std.shape == (1, auto.channels, 16, 16)
    assert (mean.min(), mean.max(), std.abs().max()) == (-1, 1, 0)
    assert (auto.decode(mean.half()) == frames).all()  # as a cache holds it
    assert auto == PixelLatents()
