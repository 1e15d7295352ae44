"""The sound autoencoders without weights, and Stable Audio's at a tiny size with random weights."""

import json
from dataclasses import replace

import pytest
import torch

from selfflow_robotics.autoencoders.lapped import LappedTransform
from selfflow_robotics.autoencoders.load import (
    AutoencoderConfig,
    load_autoencoder,
    load_sound_autoencoder,
    load_video_autoencoder,
)
from selfflow_robotics.autoencoders.spectrogram import BANDS, Spectrogram
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.sound import SoundLatents
from selfflow_robotics.rng import torch_generator
from tests.sounds import RATE, ringing

EMBEDDED = {"spectrogram": (Spectrogram, 64), "mdct": (LappedTransform, 640)}


@pytest.fixture(scope="module")
def sounds():
    return torch.stack([torch.from_numpy(ringing()), torch.from_numpy(ringing(starts=(0.51,)))])


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_second_is_25_latents(kind, sounds):
    autoencoder = load_sound_autoencoder(AutoencoderConfig(kind))
    latents = autoencoder.encode(sounds)
    assert latents.shape == (2, 50, EMBEDDED[kind][1])
    assert latents.dtype == torch.float32
    assert autoencoder.channels == latents.shape[2]
    assert (autoencoder.sample_rate, autoencoder.downsample) == (RATE, 640)
    decoded = autoencoder.decode(latents)
    assert decoded.shape == sounds.shape
    assert (autoencoder.decode(latents) == decoded).all()  # there is no chance in it
    one = autoencoder.decode(latents[1:])
    torch.testing.assert_close(one, decoded[1:], atol=1e-4, rtol=1e-4)
    other = load_sound_autoencoder(AutoencoderConfig(kind), sample_rate=8000)
    assert other.fingerprint != autoencoder.fingerprint
    assert other.encode(sounds[:, :8000]).shape[1] == 25


def test_the_lapped_transform_is_orthonormal_and_exact(sounds):
    codec = LappedTransform(RATE)
    noise = 0.3 * torch.randn(2, 6400, generator=torch_generator("test", 0))
    for sound in (sounds, noise.clamp(-1, 1)):
        torch.testing.assert_close(codec.decode(codec.encode(sound)), sound, atol=1e-5, rtol=0)
    coefficients = 1e-3 * codec.encode(noise).sinh()
    assert float(coefficients.square().sum()) == pytest.approx(
        float(noise.square().sum()), rel=1e-4
    )


def test_a_sine_is_in_its_band(sounds):
    codec = Spectrogram(RATE)
    t = torch.arange(RATE) / RATE
    latents = codec.encode(torch.sin(2 * torch.pi * 1000 * t)[None])[0, 5:-5]
    decibels = latents * 20 - 60
    bands = decibels[:, :BANDS]
    centres = torch.linspace(*(2595 * torch.log10(1 + torch.tensor([40.0, 8000.0]) / 700)), 62)
    expected = (centres[1:-1] - 2595 * torch.log10(torch.tensor(1 + 1000 / 700))).abs().argmin()
    assert (bands.argmax(1) == expected).all()
    assert bands.max() == pytest.approx(0, abs=3)
    assert bands[:, -10:].max() < -60
    assert decibels[:, BANDS:].mean() == pytest.approx(0, abs=0.1)
    assert (codec.encode(torch.zeros(1, 640)) == -1).all()


def spectrum_db(sounds, size=512):
    window = torch.hann_window(size)
    spectra = torch.stft(sounds, size, size // 4, window=window, return_complex=True)
    return 20 * torch.log10(2 * spectra.abs() / window.sum() + 1e-4)


def test_the_spectrogram_keeps_spectra_and_onsets(sounds):
    codec = Spectrogram(RATE)
    decoded = codec.decode(codec.encode(sounds))
    distance = (spectrum_db(decoded) - spectrum_db(sounds)).square().mean(1).sqrt().mean()
    nothing = (spectrum_db(0 * sounds) - spectrum_db(sounds)).square().mean(1).sqrt().mean()
    assert distance < 0.6 * nothing
    for start in (0.2, 0.9, 1.5):
        place = round(start * RATE)
        before, after = (decoded[0, p : p + 160].square().sum() for p in (place - 240, place + 80))
        assert after > 30 * before
    level = decoded.square().mean().sqrt() / sounds.square().mean().sqrt()
    assert 0.7 < level < 1.4


def test_silence_comes_back_as_silence():
    for codec in (Spectrogram(RATE), LappedTransform(RATE)):
        assert codec.decode(codec.encode(torch.zeros(1, 6400))).abs().max() < 1e-4


@pytest.mark.parametrize("kind", EMBEDDED)
def test_wrong_lengths_and_rates_are_refused(kind):
    codec = load_sound_autoencoder(AutoencoderConfig(kind))
    for shape in ((1, 641), (1, 0), (640,)):
        with pytest.raises(UserError, match="multiple of 640 samples"):
            codec.encode(torch.zeros(shape))
    with pytest.raises(UserError, match="sample_rate must be a multiple"):
        load_sound_autoencoder(AutoencoderConfig(kind), sample_rate=16_001)


def test_sounds_images_and_clips_are_told_apart():
    with pytest.raises(UserError, match="encodes sounds, not images"):
        load_autoencoder(AutoencoderConfig("spectrogram"))
    with pytest.raises(UserError, match="encodes no sounds"):
        load_sound_autoencoder(AutoencoderConfig("pixel"))
    with pytest.raises(UserError, match="not clips"):
        load_video_autoencoder(AutoencoderConfig("mdct"))


def test_sound_and_frames_of_a_moment_have_the_same_time():
    alone = SoundLatents.create(AutoencoderConfig("spectrogram"))
    assert alone.count(2.0) == 50
    assert alone.places(3, first=2).tolist() == [[2, 0, 0], [3, 0, 0], [4, 0, 0]]
    beside = replace(alone, frame_rate=12.5)
    assert beside.places(4).tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]
    assert beside.places(2, first=1)[:, 0].tolist() == [1, 1]
    for rate in (8.0, 10.0, 12.5, 24.0, 25.0, 30.0, 29.97):
        places = replace(alone, frame_rate=rate).places(1000)
        exact = torch.arange(1000, dtype=torch.float64) * rate / 25
        assert (places[:, 0] <= exact + 1e-6).all()
        assert (exact < places[:, 0] + 1).all()
        assert len(places.unique(dim=0)) == 1000
        assert not places[:, 2].any()
    with pytest.raises(UserError, match="frame rate"):
        replace(alone, frame_rate=0.0)
    with pytest.raises(UserError, match="shorter than one latent"):
        alone.count(0.01)


diffusers_missing = "the extra 'sound' is not installed"


def write_oobleck(folder, seed=0, **changes):
    """A tiny AutoencoderOobleck: stereo, 8 samples per latent, 4 channels."""
    diffusers = pytest.importorskip("diffusers", reason=diffusers_missing)
    torch.manual_seed(seed)
    settings = {
        "encoder_hidden_size": 8,
        "downsampling_ratios": [2, 4],
        "channel_multiples": [1, 2],
        "decoder_channels": 8,
        "decoder_input_channels": 4,
        "audio_channels": 2,
        "sampling_rate": 8000,
    }
    network = diffusers.AutoencoderOobleck(**{**settings, **changes})
    network.save_pretrained(folder)
    return network


@pytest.mark.parametrize("audio_channels", [1, 2])
def test_oobleck_is_diffusers_mean_of_equal_channels(tmp_path, audio_channels):
    write_oobleck(tmp_path, audio_channels=audio_channels)
    codec = load_sound_autoencoder(AutoencoderConfig("oobleck", str(tmp_path)))
    import diffusers

    theirs = diffusers.AutoencoderOobleck.from_pretrained(tmp_path)
    sounds = 0.3 * torch.randn(2, 80, generator=torch_generator("test", 0))
    latents = codec.encode(sounds)
    with torch.no_grad():
        mean = theirs.encode(sounds[:, None].repeat(1, audio_channels, 1)).latent_dist.mean
        sample = theirs.decode(mean).sample
    assert (codec.sample_rate, codec.downsample, codec.channels) == (8000, 8, 4)
    torch.testing.assert_close(latents, mean.transpose(1, 2))
    torch.testing.assert_close(codec.decode(latents), sample.mean(1).clamp(-1, 1))
    with pytest.raises(UserError, match="multiple of 8 samples"):
        codec.encode(sounds[:, :79])


def test_oobleck_of_a_pipeline_and_its_fingerprint(tmp_path):
    write_oobleck(tmp_path / "whole" / "vae")
    write_oobleck(tmp_path / "other", seed=1)
    whole, other = (
        load_sound_autoencoder(AutoencoderConfig("oobleck", str(tmp_path / name)))
        for name in ("whole", "other")
    )
    assert whole.fingerprint != other.fingerprint
    with pytest.raises(UserError, match="sounds of 8000 Hz"):
        load_sound_autoencoder(AutoencoderConfig("oobleck", str(tmp_path / "other")), "cpu", 16_000)
    settings = json.loads((tmp_path / "other" / "config.json").read_text())
    settings["_class_name"] = "AutoencoderKL"
    (tmp_path / "other" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="needs diffusers' AutoencoderOobleck"):
        load_sound_autoencoder(AutoencoderConfig("oobleck", str(tmp_path / "other")))


def test_missing_weights_are_not_downloaded(tmp_path, monkeypatch):
    pytest.importorskip("diffusers", reason=diffusers_missing)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="download=true"):
        load_sound_autoencoder(AutoencoderConfig("oobleck", "nobody/nothing"))
