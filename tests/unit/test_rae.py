"""RAE through diffusers, tiny and with random weights, and a network trained on its latents."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from selfflow_robotics.autoencoders.load import AutoencoderConfig, load_autoencoder
from selfflow_robotics.autoencoders.rae import Rae
from selfflow_robotics.cli.app import compose
from selfflow_robotics.cli.arguments import to_overrides
from selfflow_robotics.data.latents import LatentReader
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.latents import patchify, unpatchify
from selfflow_robotics.rng import torch_generator
from tests.pictures import write_folder

diffusers = pytest.importorskip("diffusers", reason="the extra 'rae' is not installed")
pytest.importorskip("transformers", reason="the extra 'rae' is not installed")
if not hasattr(diffusers, "AutoencoderRAE"):
    pytest.skip("diffusers is older than AutoencoderRAE", allow_module_level=True)

ROOT = Path(__file__).parents[2]
WEIGHTS = "diffusion_pytorch_model.safetensors"
POSITIONS = "decoder.decoder_pos_embed"


def script(path):
    return runpy.run_path(str(ROOT / path), run_name="imported")["main"]


def write_rae(folder, seed=0, **changes):
    """A tiny AutoencoderRAE: 32 px, which its encoder sees as 28 px; latents 64 x 2 x 2."""
    torch.manual_seed(seed)
    settings = {
        "encoder_hidden_size": 64,
        "encoder_num_hidden_layers": 1,
        "encoder_input_size": 28,
        "decoder_hidden_size": 32,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
        "encoder_norm_std": [0.9, 1.0, 1.1],  # wide, so that decoded pictures need clipping
        "latents_mean": torch.randn(64, 2, 2),
        "latents_std": torch.rand(64, 2, 2) + 0.5,
    }
    diffusers.AutoencoderRAE(**{**settings, **changes}).save_pretrained(folder)


@pytest.fixture(scope="module")
def rae_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rae")
    write_rae(folder)
    return folder


@pytest.fixture(scope="module")
def rae(rae_folder):
    return load_autoencoder(AutoencoderConfig("rae", str(rae_folder)))


@pytest.fixture(scope="module")
def theirs(rae_folder):
    return diffusers.AutoencoderRAE.from_pretrained(rae_folder, low_cpu_mem_usage=False)


@pytest.fixture
def frames():
    return torch.randint(
        0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch_generator("test", 0)
    )


def test_encoding_is_diffusers_encoder_without_spread(rae, theirs, frames):
    mean, std = rae.encode(frames)
    with torch.no_grad():
        expected = theirs.encode(frames.permute(0, 3, 1, 2) / 255).latent
    assert (rae.channels, rae.downsample) == (64, 16)
    assert mean.shape == std.shape == (3, 64, 2, 2)
    assert mean.dtype == std.dtype == torch.float32
    torch.testing.assert_close(mean, expected)
    assert (std == 0).all()


def test_decoding_is_diffusers_decoder_clipped(rae, theirs):
    latents = 3 * torch.randn(2, 64, 2, 2, generator=torch_generator("test", 0))
    with torch.no_grad():
        expected = theirs.decode(latents).sample
    assert expected.min() < 0
    assert expected.max() > 1
    decoded = rae.decode(latents)
    assert decoded.dtype == torch.uint8
    assert decoded.shape == (2, 32, 32, 3)
    levels = (expected.clamp(0, 1) * 255).permute(0, 2, 3, 1)
    assert (decoded - levels).abs().max() < 0.501
    # Tokens of a network come back as a view with other strides.
    assert (rae.decode(unpatchify(patchify(latents, 1), 1)) == decoded).all()


def test_autocast_around_it_changes_nothing(rae, frames):
    mean, _ = rae.encode(frames)
    with torch.autocast("cpu", torch.bfloat16):
        assert (rae.encode(frames)[0] == mean).all()
        inside = rae.decode(mean)
    assert (inside == rae.decode(mean)).all()


def test_the_fingerprint_is_of_settings_and_weights(rae, rae_folder, tmp_path):
    prints = {rae.fingerprint, Rae.load(str(rae_folder), download=False).fingerprint}
    assert len(prints) == 1
    for number, changes in enumerate([{"seed": 1}, {"scaling_factor": 0.5}]):
        write_rae(tmp_path / str(number), **changes)
        prints.add(Rae.load(str(tmp_path / str(number)), download=False).fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize("era", ["old", "new"])
def test_the_encoders_names_of_either_era_are_understood(rae, frames, tmp_path, era):
    write_rae(tmp_path)
    new = {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
    }
    renamed = {}
    for name, weight in load_file(tmp_path / WEIGHTS).items():
        for before, now in new.items():
            name = name.replace(before, now) if era == "new" else name.replace(now, before)
        renamed[name] = weight
    kept = "attention.output.dense" if era == "old" else "attention.o_proj"
    assert sum(kept in name for name in renamed) == 2
    renamed[POSITIONS] = torch.zeros(1, 5, 32)  # which published files hold and nobody reads
    save_file(renamed, tmp_path / WEIGHTS, metadata={"format": "pt"})
    other = Rae.load(str(tmp_path), download=False)
    assert other.fingerprint == rae.fingerprint
    assert (other.encode(frames)[0] == rae.encode(frames)[0]).all()


def test_pictures_of_another_size_are_refused(rae):
    with pytest.raises(UserError, match="are 48 x 48 px, but this autoencoder needs 32 x 32"):
        rae.encode(torch.zeros(1, 48, 48, 3, dtype=torch.uint8))


def _without_weights(folder):
    (folder / WEIGHTS).unlink()


def _missing_weight(folder):
    weights = load_file(folder / WEIGHTS)
    del weights["decoder.decoder_embed.weight"]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def _another_class(folder):
    from tests.unit.test_sd_vae import write_vae

    write_vae(folder)


def _other_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "decoder_hidden_size": 64}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_weights, "cannot read the autoencoder in"),
        (_other_shape, "cannot read the autoencoder in"),
        (_missing_weight, r"do not match config\.json: decoder\.decoder_embed\.weight"),
        (
            _another_class,
            "has class AutoencoderKL; autoencoder=rae needs diffusers' AutoencoderRAE",
        ),
    ],
)
def test_an_unfit_folder_is_one_line(tmp_path, capfd, spoil, message):
    write_rae(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        Rae.load(str(tmp_path), download=False)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_absent_weights_and_packages_are_one_line(rae_folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="'somebody/no-such-rae' were not found"):
        load_autoencoder(AutoencoderConfig("rae", "somebody/no-such-rae"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"diffusers and transformers: pip .*\[rae\]"):
        Rae.load(str(rae_folder), download=False)


@pytest.mark.parametrize(
    ("experiment", "gamma"), [("imagenet256_xl_rae", 0.8), ("imagenet256_xl_rae_vanilla", 0.0)]
)
def test_the_papers_experiments_are_composed(experiment, gamma):
    main = script("pretrain/images.py")
    overrides = to_overrides([f"experiment={experiment}"], (), main.config_name)
    [config] = compose(main.config_name, main.schema, overrides)
    times = config.objective.timesteps
    assert (config.model.patch, config.train.steps, config.objective.gamma) == (1, 1_000_000, gamma)
    assert (times.distribution, times.shift) == ("plateau_logit_normal", 10.0)
    assert config.model.sit.depth == 28


def test_from_pictures_over_latents_and_training_to_pictures(tmp_path, monkeypatch, rae_folder):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "set", {"cat": 4, "dog": 4})
    encode = ["--data", "set", "--output", "latents", "autoencoder=rae", "image_size=32"]
    script("pretrain/encode.py")([*encode, f"weights={rae_folder}", "processes=1", "device=cpu"])
    reader = LatentReader("latents")
    assert (reader.channels, reader.latent_size) == (64, (2, 2))
    assert reader.autoencoder == AutoencoderConfig("rae", str(rae_folder))
    tiny = [
        "model.sit.width=48",
        "model.sit.depth=2",
        "model.sit.heads=3",
        "batch_size=4",
        "device=cpu",
    ]
    tiny += ["objective.student_layer=1", "objective.teacher_layer=2", "name=tiny"]
    steps = ["train.steps=3", "train.save_every=3", "train.log_every=1", "train.sample_every=3"]
    script("pretrain/images.py")(
        ["--data", "latents", "experiment=imagenet256_xl_rae", *tiny, *steps]
    )
    lines = (tmp_path / "runs/tiny/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert (tmp_path / "runs/tiny/samples/step_0000003.png").exists()
    how = ["method=euler", "num_steps=4", "shift=6.93", "num_images=2", "device=cpu"]
    script("eval/generation.py")([*how, "--checkpoint", "runs/tiny", "--output", "made"])
    pictures = np.load("made/samples.npz")["arr_0"]
    assert pictures.shape == (2, 32, 32, 3)
    assert (pictures[0] != pictures[1]).any()
