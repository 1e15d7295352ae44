"""eval/generation.py as it is typed: every kind of checkpoint, and every mistake as one line."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from selfflow_robotics.errors import UserError
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.training.checkpoint import save_checkpoint
from tests.networks import image_record, robot_network, robot_record

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "official_tiny.safetensors"
main = runpy.run_path(str(ROOT / "eval" / "generation.py"), run_name="imported")["main"]
SIT = SiTConfig(width=48, depth=2, heads=3)
QUICK = ["num_images=2", "num_steps=2", "device=cpu", "precision=fp32"]


def write_run(root, name, kind, model, extra):
    run = root / "runs" / name
    run.mkdir(parents=True)
    (run / "run.json").write_text(f'{{"kind": "{kind}", "created": "2026-01-01"}}')
    return save_checkpoint(run / "checkpoints", 3, {"teacher": model.state_dict()}, extra)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a run of each kind, the labelled pictures' being the last."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scenes = RobotConfig(SIT, image_size=(16, 32))
    record = robot_record(scenes, ["image"], provenance={"task": "pick_coke_can"})
    write_run(tmp_path, "scenes", "pretrain", Network(robot_network(scenes)), record)
    classes = image_config(SIT, latent_size=8, channels=3, patch=4, num_classes=3)
    write_run(tmp_path, "classes", "images", Network(classes), image_record(classes, patch=4))
    return tmp_path


def write_released(path):
    """The release's tiny copy as the release stores its weights."""
    golden = load_file(GOLDEN)
    torch.save({k.removeprefix("model."): v for k, v in golden.items() if "model." in k}, path)


def test_the_newest_run_is_sampled_and_a_repeated_command_leaves_the_result(folder, capsys):
    main(QUICK)
    first, last = capsys.readouterr().out.splitlines()
    assert first == (
        "2 images of runs/classes/checkpoints/step_0000003: sde, 2 steps, cpu fp32, 1 processes"
    )
    assert last.startswith("2 images of 8 x 8 px in runs/classes/eval/generation-sde2-")
    (result,) = folder.glob("runs/classes/eval/generation-*/samples.npz")
    assert np.load(result)["arr_0"].shape == (2, 8, 8, 3)
    main(QUICK)
    assert capsys.readouterr().out.splitlines()[1].startswith("already generated: runs/classes/")


def test_a_run_of_scenes_is_sampled_by_euler(folder, capsys):
    main([*QUICK, "--checkpoint", "runs/scenes", "--output", "out"])
    assert ": euler, 2 steps" in capsys.readouterr().out
    assert np.load("out/samples.npz")["arr_0"].shape == (2, 16, 32, 3)
    assert '"instruction": "pick coke can"' in Path("out/settings.json").read_text()


def test_released_weights_are_sampled_through_an_autoencoder(folder):
    pytest.importorskip("diffusers", reason="the extra 'images' is not installed")
    from tests.unit.test_sd_vae import write_vae

    write_released(folder / "tiny.pt")
    write_vae(folder / "vae")
    main([*QUICK, "--checkpoint", "tiny.pt", "heads=4", "autoencoder_weights=vae"])
    (result,) = folder.glob("runs/tiny/eval/generation-*/samples.npz")
    pictures = np.load(result)["arr_0"]
    assert pictures.shape == (2, 64, 64, 3)
    assert (pictures[0] != pictures[1]).any()
    with Image.open(result.with_name("samples.png")) as grid:
        assert grid.size == (256, 128)


def test_of_a_training_checkpoint_the_moving_average_is_sampled(folder, capsys):
    pytest.importorskip("diffusers", reason="the extra 'images' is not installed")
    from tests.unit.test_sd_vae import write_vae

    write_released(folder / "tiny.pt")
    write_vae(folder / "vae")
    average = torch.load("tiny.pt")
    raw = {name: v if name == "pos_embed" else v + 1 for name, v in average.items()}
    torch.save({"model": raw, "ema": average, "steps": 3}, "training.pt")
    pictures = []
    for name in ("tiny", "training"):
        main([*QUICK, "--checkpoint", f"{name}.pt", "heads=4", "autoencoder_weights=vae"])
        (result,) = folder.glob(f"runs/{name}/eval/generation-*/samples.npz")
        pictures.append(np.load(result)["arr_0"])
    assert (pictures[0] == pictures[1]).all()
    assert "'ema'" in capsys.readouterr().out


def _nothing(_folder):
    pass


def _no_runs(folder):
    shutil.rmtree(folder / "runs")


def _released(folder):
    write_released(folder / "tiny.pt")


def _cut_released(folder):
    write_released(folder / "tiny.pt")
    (folder / "tiny.pt").write_bytes((folder / "tiny.pt").read_bytes()[:-5000])


def _foreign(folder):
    torch.save({"fc.weight": torch.zeros(2)}, folder / "tiny.pt")


def _misshapen(folder):
    golden = load_file(GOLDEN)
    state = {k.removeprefix("model."): v for k, v in golden.items() if "model." in k}
    torch.save({**state, "x_embedder.proj.bias": torch.zeros(5)}, folder / "tiny.pt")


def _cut_checkpoint(folder):
    weights = folder / "runs/classes/checkpoints/step_0000003/teacher.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _other_pictures(_folder):
    main([*QUICK, "seed=9", "--output", "out"])


def _claims(**changes):
    """A run whose record was changed, and its checksum with it."""

    def prepare(folder):
        path = folder / "runs/classes/checkpoints/step_0000003/manifest.json"
        extra = json.loads(path.read_text())["extra"]
        network = extra["network"]
        for name, value in changes.items():
            parts = (network["backbone"], network, network["adapters"]["frames"], extra)
            next(part for part in parts if name in part)[name] = value
        weights = load_file(path.with_name("teacher.safetensors"))
        save_checkpoint(path.parents[1], 3, {"teacher": weights}, extra)

    return prepare


def _two_averages(folder):
    write_released(folder / "tiny.pt")
    state = torch.load(folder / "tiny.pt")
    torch.save({"ema_1": state, "ema_2": state}, folder / "tiny.pt")


TINY = ["--checkpoint", "tiny.pt"]


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (_no_runs, [], "no run in runs/ can generate images; train one"),
        (_nothing, ["--checkpoint", "no/where"], "no checkpoint at no/where"),
        (_nothing, ["--checkpoint", "missing.pt"], "missing.pt does not exist"),
        (_cut_released, TINY, "tiny.pt is truncated"),
        (_foreign, TINY, "has no x_embedder.proj.weight"),
        (_released, TINY, "pass heads"),
        (_claims(depth=10**9), [], "does not describe a network"),
        (_claims(width=48 * 10**6), [], "does not describe a network"),
        (_claims(num_classes=10**12), [], "does not match the model"),
        (_claims(grid=[10**6, 10**6]), [], "does not describe a network"),
        (_claims(labels=[9]), [], "does not describe a network"),
        (_claims(labels=[0, 2]), ["labels=[1]"], "without images of class 1"),
        (_claims(labels=[0]), ["guidance_scale=2"], "guidance_scale has no effect with one class"),
        (_two_averages, [*TINY, "heads=4"], "'ema_1' and 'ema_2'"),
        (_misshapen, [*TINY, "heads=4"], "x_embedder.proj.bias is (5,), should be (48,)"),
        (_cut_checkpoint, [], "teacher.safetensors is truncated"),
        (_nothing, ["heads=4"], "heads is only for files of released weights"),
        (_nothing, ["--checkpoint", "runs/scenes", "labels=[1]"], "has no classes"),
        (
            _nothing,
            ["--checkpoint", "runs/scenes", "instruction=''", "guidance_scale=2"],
            "guidance_scale",
        ),
        (_nothing, ["labels=[3]"], "labels must be numbers from 0 to 2, got [3]"),
        (_nothing, ["instruction=x"], "does not read instructions"),
        (_nothing, ["autoencoder_weights=vae"], "need no autoencoder_weights"),
        (_nothing, ["device=tpu9"], "device 'tpu9' is unknown"),
        (_nothing, ["num_images=0"], "num_images must be at least 1, got 0"),
        (_nothing, ["method=dpm"], "unknown value 'dpm'"),
        (_nothing, ["--output", "/proc/no"], "cannot write results to /proc/no"),
        (_other_pictures, ["--output", "out"], "out has images with a different seed"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, prepare, arguments, message):
    prepare(folder)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*QUICK, *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1


def test_without_the_hubs_package_or_the_network_the_release_is_one_line(
    folder, capsys, monkeypatch
):
    pytest.importorskip("huggingface_hub")
    command = [*QUICK, "--checkpoint", "released"]

    def offline(*_args, **_kwargs):
        raise OSError("Please check your connection\nand more of it")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    for arguments, message in (
        (["download=true"], "(Please check your connection); check the network"),
        (["download=false"], "download=true to download selfflow_imagenet256.pt"),
    ):
        with pytest.raises(SystemExit):
            main([*command, *arguments])
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SystemExit):
        main(command)
    assert "needs huggingface_hub: pip install" in capsys.readouterr().err


def test_the_released_file_is_looked_for_at_the_hub_where_no_such_file_lies(folder, monkeypatch):
    asked = []

    def fetch(download):
        asked.append(download)
        raise UserError("no network")

    monkeypatch.setattr("selfflow_robotics.inference.bundle.fetch_released", fetch)
    with pytest.raises(SystemExit):
        main([*QUICK, "--checkpoint", "selfflow_imagenet256.pt", "download=true"])
    assert asked == [True]


def test_another_autoencoder_under_the_recorded_name_is_refused(folder, capsys):
    classes = image_config(SIT, latent_size=8, channels=3, patch=4, num_classes=3)
    record = image_record(classes, patch=4, fingerprint="a former")
    write_run(folder, "former", "images", Network(classes), record)
    with pytest.raises(SystemExit) as exit:
        main([*QUICK, "--checkpoint", "runs/former"])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert "runs/former/" in error
    assert "is no longer the autoencoder" in error
