"""Class probes: planted classes are found, noise is not, nothing leaks, mistakes are one line."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from selfflow_robotics.data.latents import LatentReader, sha256_of, shard_path
from selfflow_robotics.data.latents_record import row_dtype
from selfflow_robotics.data.shapes import shape_latents
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.probing.class_probes import (
    flat_latents,
    num_batches,
    probe_classes,
    read_sources,
    score_source,
    split_pictures,
)
from selfflow_robotics.evaluation.probing.class_report import lines_of
from selfflow_robotics.evaluation.probing.probes import Source, picture_features
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.timesteps import Timesteps
from selfflow_robotics.training.checkpoint import save_checkpoint
from tests.networks import ask_image, image_bundle, image_record, robot_network, robot_record

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "official_tiny.safetensors"
main = runpy.run_path(str(ROOT / "eval/class_probe.py"), run_name="imported")["main"]
probe_main = runpy.run_path(str(ROOT / "eval/probe.py"), run_name="imported")["main"]
SIT = SiTConfig(width=24, depth=2, heads=3)
TINY = image_config(SIT, latent_size=8, channels=3, patch=4, num_classes=3)
QUICK = ["timesteps=[0.5]", "device=cpu"]


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def write_cache(folder, count=60, channels=3, size=8, mirror=False, classes=3, maker="pixel"):
    """Latents of noise, brighter the higher the class; with `mirror`, two rows a picture."""
    kind = "pixel" if channels == 3 else "sd_vae"
    copies = 2 if mirror else 1
    rows = np.zeros(copies * count, row_dtype(channels, size))
    rows["label"] = np.repeat(np.arange(count) % classes, copies)
    noise = 0.3 * rng(1).normal(size=rows["mean"].shape)
    rows["mean"] = noise + rows["label"][:, None, None, None]
    folder.mkdir()
    path = shard_path(folder, 0)
    np.save(path, rows)
    shard = {"rows": len(rows), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    record = {
        "format": 1,
        "autoencoder": {"kind": kind, "weights": None, "fingerprint": maker},
        "image_size": size,
        "latents": {"channels": channels, "size": size},
        "mirror": mirror,
        "source": {"num_classes": classes, "class_names": None, "fingerprint": "noise"},
        "skipped": {},
        "shards": [shard],
    }
    (folder / "cache.json").write_text(json.dumps(record))
    return folder


def tiny_model():
    """A network in which timestep and label matter: adaLN of a new one is zero."""
    torch.manual_seed(0)
    model = Network(TINY).eval()
    with torch.no_grad():
        for block in model.backbone.blocks:
            block.adaLN_modulation[1].weight.normal_(std=0.3)
    return model


def network_of(model):
    return image_bundle(model, patch=4)


def planted(width=16, classes=4, count=2000):
    """Labels, and features that are a linear function of the class and of much else."""
    labels = rng(2).integers(classes, size=count)
    mix = rng(3).normal(size=(classes + width, 3 * width))
    hidden = np.concatenate([np.eye(classes)[labels], rng(4).normal(size=(count, width))], axis=1)
    return labels, (hidden @ mix).astype(np.float32)


def scored(values, labels):
    return score_source(
        Source(0.5, 1, values), labels, split_pictures(len(labels), 1, len(labels), 0)
    )


def test_a_class_that_features_hold_linearly_is_always_found():
    labels, features = planted()
    row = scored(features, 10 + 3 * labels)  # names of classes, not their order
    assert (row["correct"], row["count"], row["accuracy"]) == (400, 400, 1.0)
    assert row["interval"] == pytest.approx([0.9905, 1.0], abs=1e-4)
    assert (row["source"], row["layer"], row["t"]) == ("features", 1, 0.5)


def test_noise_is_at_chance():
    labels, features = planted()
    rows = [scored(rng(9 + n).normal(size=features.shape), labels) for n in range(4)]
    for row in rows:
        low, high = row["interval"]
        assert low < row["accuracy"] < high
    # 1600 guesses: three standard deviations are 0.033
    assert np.mean([row["accuracy"] for row in rows]) == pytest.approx(0.25, abs=0.033)


def test_a_class_that_training_never_saw_is_wrong_and_no_error():
    labels, features = planted(count=1000)
    labels[split_pictures(1000, 1, 1000, 0)["test"][0]] = 9
    assert scored(features, labels)["correct"] == 199


@pytest.mark.parametrize("copies", [1, 2])
def test_no_picture_is_in_two_parts(copies):
    parts = split_pictures(100 * copies, copies, 80, 0)
    pictures = {part: set((rows // copies).tolist()) for part, rows in parts.items()}
    assert {part: len(numbers) for part, numbers in pictures.items()} == {
        "train": 56,
        "validation": 8,
        "test": 16,
    }
    assert len(set.union(*pictures.values())) == 80
    assert {part: len(rows) for part, rows in parts.items()} == {
        "train": 56 * copies,  # mirror images too, beside their pictures
        "validation": 8,
        "test": 16,
    }
    assert all((rows % copies == 0).all() for part, rows in parts.items() if part != "train")
    again, other = (split_pictures(100 * copies, copies, 80, seed) for seed in (0, 1))
    assert (again["test"] == parts["test"]).all()
    assert (other["test"] != parts["test"]).any()


def test_too_few_pictures_are_refused():
    with pytest.raises(UserError, match="at least 20 images, got 19"):
        split_pictures(38, 2, 1000, 0)


@torch.no_grad()
def test_features_are_the_raw_tokens_and_know_no_label():
    model = tiny_model()
    bundle, null = image_bundle(model, patch=4), TINY.null_label
    x = torch.randn(2, 4, 48, generator=torch.Generator().manual_seed(0))
    found = picture_features(bundle, x, 0.5, [0, 2])
    labels = torch.full((2,), null)
    _, raw = ask_image(model, x, Timesteps.constant(0.5, x), labels, [2], stop=True)
    torch.testing.assert_close(found[2], raw[2])
    adapter = model.adapter("first_frame")
    positions = adapter.grid_positions.flatten(0, 1)
    torch.testing.assert_close(found[0], adapter.stem(x) + positions)
    assert not torch.equal(picture_features(bundle, x, 0.4, [2])[2], found[2])
    model.label_table.weight[:null] += 1
    assert torch.equal(picture_features(bundle, x, 0.5, [2])[2], found[2])
    model.label_table.weight[null] += 1
    assert not torch.equal(picture_features(bundle, x, 0.5, [2])[2], found[2])


def test_the_noise_of_a_row_is_the_same_at_all_timesteps(tmp_path):
    reader = LatentReader(write_cache(tmp_path / "cache", 70))
    rows, steps = np.arange(69, -1, -1), []
    sources = read_sources(
        network_of(tiny_model()), reader, rows, [0, 1], [0.0, 0.5, 1.0], 0, lambda: steps.append(1)
    )
    found = {(source.layer, source.t): source.values for source in sources}
    assert len(steps) == 3 * num_batches(70) == 6
    assert found[1, 0.5].shape == (70, 24)
    clean, noise = found[None, 0.0], found[None, 1.0]
    np.testing.assert_array_equal(clean, reader.read(rows).mean.reshape(70, -1))
    np.testing.assert_allclose(found[None, 0.5], (clean + noise) / 2, atol=1e-6)
    assert abs(noise.std() - 1) < 0.05
    assert (noise[0] != noise[64]).any()


def test_large_latents_are_averaged_for_the_baseline():
    assert flat_latents(torch.zeros(2, 4, 32, 32)).shape == (2, 4096)
    large = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    pooled = flat_latents(large).reshape(2, 4, 32, 32)
    torch.testing.assert_close(pooled, large.reshape(2, 4, 32, 2, 32, 2).mean((3, 5)))


def test_features_of_a_run_gone_astray_are_named(tmp_path):
    reader = LatentReader(write_cache(tmp_path / "cache"))
    model = tiny_model()
    model.backbone.blocks[1].mlp.fc1.weight.data.fill_(torch.nan)
    with pytest.raises(UserError, match="layer 2 of run has values that are not finite"):
        probe_classes(network_of(model), reader, split_pictures(60, 1, 60, 0), [1, 2], [0.0], 0)


def write_run(root, name, kind, model, extra, config=None):
    run = root / "runs" / name
    run.mkdir(parents=True)
    (run / "run.json").write_text(f'{{"kind": "{kind}", "created": "2026-01-01"}}')
    if config is not None:
        (run / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    save_checkpoint(run / "checkpoints", 3, {"teacher": model.state_dict()}, extra)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run of scenes, a run of labelled pictures and its latents, and a released file."""
    tmp_path = tmp_path_factory.mktemp("prepared")
    write_cache(tmp_path / "latents", mirror=True)
    scenes = RobotConfig(SIT, image_size=(16, 32))
    record = robot_record(scenes, ["image"], provenance={"task": "pick_coke_can"})
    write_run(tmp_path, "scenes", "pretrain", Network(robot_network(scenes)), record)
    record = image_record(TINY, patch=4, provenance={"autoencoder": "pixel", "source": "noise"})
    write_run(tmp_path, "classes", "images", tiny_model(), record, {"data": "latents"})
    state = {k.removeprefix("model."): v for k, v in load_file(GOLDEN).items() if "model." in k}
    torch.save(state, tmp_path / "tiny.pt")
    return tmp_path


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """A copy of them to work in."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)


def test_the_command_measures_once(folder, capsys):
    main([*QUICK, "layers=[2,0,2]"])
    first = capsys.readouterr().out
    (results,) = Path("runs/classes/eval").iterdir()
    report = json.loads((results / "probe.json").read_text())
    assert [(row["source"], row["layer"]) for row in report["rows"]] == [
        ("most frequent class", None),
        ("latents", None),
        ("features", 0),
        ("features", 2),
    ]
    assert report["counts"] == {"train": 84, "validation": 6, "test": 12}
    # The class is the brightness, which the first layer's input has.
    assert report["rows"][2]["accuracy"] > report["rows"][0]["accuracy"]
    table = lines_of(report["rows"])
    assert table[0] == ["", "t = 0.5"]
    assert [line[0] for line in table[1:]] == [
        "most frequent class",
        "noised latents",
        "layer 0",
        "layer 2",
    ]
    assert "| layer 0 |" in (results / "table.md").read_text()
    main([*QUICK, "layers=[0,2]"])
    again = capsys.readouterr().out
    assert again.startswith(f"already measured: {results}/probe.json")
    assert again.splitlines()[1:] == first.splitlines()[1:]
    main([*QUICK, "layers=[0,2]", "seed=1"])
    assert "already measured" not in capsys.readouterr().out
    assert len(list(Path("runs/classes/eval").iterdir())) == 2  # neither replaces the other


def test_released_weights_are_probed_on_the_latents_given(folder, capsys):
    write_cache(folder / "four", 30, channels=4)
    main([*QUICK, "--checkpoint", "tiny.pt", "heads=4", "--data", "four", "layers=[3]"])
    plain = capsys.readouterr().out
    assert "layer 3" in plain
    assert len(list(Path("runs/tiny/eval").glob("class_probe-*/table.md"))) == 1
    state = torch.load("tiny.pt")
    raw = {name: v if name == "pos_embed" else v * 0 for name, v in state.items()}
    torch.save({"state_dict": raw, "state_dict_ema": state}, "both.pt")
    main([*QUICK, "--checkpoint", "both.pt", "heads=4", "--data", "four", "layers=[3]"])
    said, *both = capsys.readouterr().out.splitlines()
    assert "'state_dict_ema'" in said
    assert both[1:-1] == plain.splitlines()[1:-1]


def test_a_run_of_the_embedded_shapes_is_probed_on_them(folder, capsys):
    config = {"data": None, "root": "shapes", "num_shapes": 24, "shape_px": 8}
    Path("runs/classes/config.yaml").write_text(json.dumps(config))
    main([*QUICK, "layers=[1]"])
    reader = LatentReader(shape_latents(Path("shapes"), 24, 8))
    assert f"on {reader.folder}: 4 classes, 17 train, 2 validation" in capsys.readouterr().out


def _nothing(_folder):
    pass


def _no_runs(folder):
    shutil.rmtree(folder / "runs")


def _no_record(folder):
    (folder / "runs/classes/config.yaml").unlink()


def _moved(folder):
    (folder / "latents").rename(folder / "elsewhere")


def _four(folder):
    write_cache(folder / "other", 30, channels=4)


def _larger(folder):
    write_cache(folder / "other", 30, size=16)


def _foreign(folder):
    write_cache(folder / "other", 30, maker="another")


def _few(folder):
    write_cache(folder / "other", 19)


def _one_class(folder):
    write_cache(folder / "other", 30, classes=1)


OTHER = ["--data", "other"]


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (
            _nothing,
            ["--checkpoint", "tiny.pt", "heads=4"],
            "tiny.pt does not record its training data",
        ),
        (_nothing, ["--checkpoint", "no.pt", "--data", "latents"], "no.pt does not exist"),
        (_nothing, ["--checkpoint", "runs/scenes"], "eval/probe.py"),
        (_nothing, ["heads=4"], "heads is only for files of released weights"),
        (_no_runs, [], "no images run in runs/ has a checkpoint"),
        (_no_record, [], "runs/classes/config.yaml"),
        (
            _moved,
            [],
            "was trained on latents, which does not exist; pass its latents with --data DIR",
        ),
        (_nothing, OTHER, "no finished latents at other"),
        (_four, OTHER, "latents of 3 x 8 x 8, but other has 4 x 8 x 8; choose other --data"),
        (_larger, OTHER, "latents of 3 x 8 x 8, but other has 3 x 16 x 16"),
        (_foreign, OTHER, "other has latents of a different autoencoder (pixel)"),
        (_few, OTHER, "at least 20 images, got 19"),
        (_one_class, OTHER, "other has images of only one class"),
        (_nothing, ["num_pictures=19"], "num_pictures must be at least 20, got 19"),
        (_nothing, ["layers=[3]"], "layers must be numbers from 0 to 2 for this network, got [3]"),
        (_nothing, ["layers=[-1]"], "layers must be numbers from 0 to 2"),
        (_nothing, ["timesteps=[1.5]"], "timesteps must be numbers in [0, 1], got [1.5]"),
        (_nothing, ["seed=-1"], "seed must be from 0 to 2 ** 63 - 1, got -1"),
        (_nothing, ["--output", "/proc/no"], "cannot write to /proc/no"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, prepare, arguments, message):
    prepare(folder)
    with pytest.raises(SystemExit) as stop:
        main([*QUICK, *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("network", ["runs/classes", "tiny.pt"])
def test_the_probe_of_scenes_names_this_one(folder, capsys, network):
    with pytest.raises(SystemExit):
        probe_main(["--checkpoint", network])
    error = capsys.readouterr().err
    assert "eval/class_probe.py" in error
    assert len(error.splitlines()) == 1
