"""The small autoencoder of our own: trained by its command, read back, and refused."""

import runpy
from pathlib import Path

import pytest
import torch

from selfflow_robotics.autoencoders.load import AutoencoderConfig, load_autoencoder
from selfflow_robotics.autoencoders.small import FILE, SmallAutoencoder, SmallNetwork, psnr
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.latents import ImageLatents
from selfflow_robotics.rng import torch_generator
from tests.rlds_sets import make_set

ROOT = Path(__file__).parents[2]
main = runpy.run_path(str(ROOT / "pretrain/autoencoder.py"), run_name="imported")["main"]
SMALL = ["image_size=[16,24]", "batch_size=8", "train.log_every=20", "device=cpu", "precision=fp32"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_set(tmp_path / "sets", [9, 9, 5])
    return tmp_path


def load(where="runs/autoencoder"):
    return load_autoencoder(AutoencoderConfig("small", str(where)))


def test_its_command_trains_it_and_tells_its_quality(folder, capsys):
    run = [*SMALL, "--data", "sets/toy/0.1.0", "train.steps=60"]
    main(run)
    said = capsys.readouterr().out
    trained = load()
    assert f"{trained.told['psnr']:.1f} dB PSNR on 5 held-out frames" in said
    codec = ImageLatents.create(AutoencoderConfig("small", "runs/autoencoder"), (16, 24), 8)
    frames = torch.full((1, 2, 16, 24, 3), 90, dtype=torch.uint8)
    assert codec.decode(codec.encode(frames)).shape == frames.shape
    untrained = SmallAutoencoder(SmallNetwork(4), 1.0, {})
    shown = frames[0]
    before, after = (psnr(shown, a.decode(a.encode(shown)[0])) for a in (untrained, trained))
    assert after > before + 3
    main(run)  # finished already
    assert load().fingerprint == trained.fingerprint


def test_it_has_the_size_and_the_latents_that_it_says():
    network = SmallNetwork(8)
    assert 0.2e6 < sum(p.numel() for p in network.parameters()) < 0.35e6
    frames = torch.randint(
        0, 256, (2, 16, 24, 3), dtype=torch.uint8, generator=torch_generator("test", 0)
    )
    small, scaled = (SmallAutoencoder(network, scale, {}) for scale in (1.0, 0.5))
    mean, std = small.encode(frames)
    assert mean.shape == std.shape == (2, 8, 2, 3)
    assert (std > 0).all()
    torch.testing.assert_close(scaled.encode(frames)[0], 2 * mean)
    assert (scaled.decode(2 * mean) == small.decode(mean)).all()
    other = SmallAutoencoder(SmallNetwork(8), 0.5, {})
    assert len({one.fingerprint for one in (small, scaled, other)}) == 3
    with pytest.raises(UserError, match="divisible by 8 px"):
        small.encode(frames[:, :12])


def test_what_is_no_autoencoder_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no autoencoder at"):
        load(tmp_path)
    SmallAutoencoder(SmallNetwork(4), 1.0, {}).save(tmp_path / FILE)
    whole = (tmp_path / FILE).read_bytes()
    for data in (b"", whole[:1000], whole.replace(b"channels", b"chambers")):
        (tmp_path / FILE).write_bytes(data)
        with pytest.raises(UserError, match="not a small autoencoder") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["encoder.0.weight", "decoder.0.bias"])
def test_weights_that_are_not_finite_are_named(tmp_path, name):
    network = SmallNetwork(4)
    network.state_dict()[name].view(-1)[0] = torch.inf
    SmallAutoencoder(network, 1.0, {}).save(tmp_path / FILE)
    with pytest.raises(UserError, match=name):
        load(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    ["image_size=[20,24]", "channels=0", "kl=-1", "held_out=1", "held_out=0.9", "batch_size=0"],
)
def test_a_mistake_is_one_line(folder, capsys, wrong):
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, "--data", "sets/toy/0.1.0", wrong])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
