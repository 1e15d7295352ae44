"""REPA from a run of our own: pretraining, the checkpoint's head, and fine-tuning from it."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selfflow_robotics.inference.bundle import load_bundle
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.training.checkpoint import save_checkpoint
from tests.networks import robot_network, robot_record
from tests.rlds_sets import GOLDEN_SET

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = ["experiment=debug", "objective=repa", "--data", str(GOLDEN_SET), "train.steps=2"]


def run(script: str, *arguments: str) -> None:
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(ROOT / script), run_name="imported")["main"]([*arguments, "threads=1"])
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a network of width 24 to be the encoder, and a run that followed it."""
    folder = tmp_path_factory.mktemp("repa")
    torch.manual_seed(0)
    config = RobotConfig(SiTConfig(width=24, depth=2, heads=3), image_size=(32, 48))
    weights = {"teacher": Network(robot_network(config)).state_dict()}
    record = robot_record(config, ["image"])
    save_checkpoint(folder / "eye" / "checkpoints", 1, weights, record)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("pretrain/run.py", *PRETRAIN, "--encoder", "run:eye@2")
    return folder


def test_the_head_follows_the_encoder(folder):
    run = folder / "runs" / "debug-pretrain"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        loss = line["flow_loss"] - 0.5 * line["teacher_student_cosine"]
        assert line["loss"] == pytest.approx(loss, rel=1e-3)
    network = load_bundle(run, torch.device("cpu")).network
    assert network.config.feature_channels == 24
    assert network.projector.linear2.weight.shape == (24, 48 + 24)


def test_another_encoder_is_not_followed_halfway(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as stop:
        run("pretrain/run.py", *PRETRAIN[:-1], "train.steps=3", "--encoder", "run:eye@1")
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "encoder" in last


def test_labelled_pictures_follow_it_too(folder, monkeypatch):
    monkeypatch.chdir(folder)
    small = ["experiment=debug", "objective=repa", "name=pictures", "num_shapes=24"]
    run("pretrain/images.py", *small, "train.steps=2", "train.log_every=1", "--encoder", "run:eye")
    lines = (folder / "runs/pictures/metrics.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        loss = line["flow_loss"] - 0.5 * line["teacher_student_cosine"]
        assert line["loss"] == pytest.approx(loss, rel=1e-3)
    network = load_bundle(Path("runs/pictures"), torch.device("cpu")).network
    assert network.config.feature_channels == 24
    assert list((folder / "runs/pictures/samples").glob("*.png"))


@pytest.mark.parametrize("init", ["auto", "runs/debug-pretrain"])
def test_finetuning_starts_from_it_with_a_head_of_its_own(folder, monkeypatch, capsys, init):
    monkeypatch.chdir(folder)
    name = f"from-{Path(init).name}"
    shared = ["experiment=debug", "--data", str(GOLDEN_SET), "validation=0", "train.steps=1"]
    run("finetune/rt1.py", *shared, f"name={name}", "--init", init)
    assert "from runs/debug-pretrain/checkpoints/step_0000002" in capsys.readouterr().out
    before = load_file("runs/debug-pretrain/checkpoints/step_0000002/teacher.safetensors")
    after = load_file(f"runs/{name}/checkpoints/step_0000001/model.safetensors")
    assert before.keys() == after.keys()
    assert after["projector.linear2.weight"].shape == (48, 96)
    moved = (after["adapters.frames.times"] - before["adapters.frames.times"]).abs().max()
    assert moved < 0.02  # one step away, not drawn anew


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("pretrain/run.py", PRETRAIN, "objective.target=encoder needs an encoder: encoder=dinov2"),
        ("pretrain/run.py", ["encoder=dinov2-b"], "is for objective=repa"),
        ("pretrain/run.py", [*PRETRAIN, "encoder=dino"], "unknown encoder 'dino'"),
        ("pretrain/run.py", [*PRETRAIN, "encoder=run:nowhere"], "no checkpoint at nowhere"),
        ("pretrain/run.py", [*PRETRAIN, "encoder=run:eye@3"], "has layers 1 to 2"),
        (
            "pretrain/run.py",
            [*PRETRAIN, "encoder=run:eye", "objective.head=false"],
            "have 24 channels, the network 48",
        ),
        (
            "pretrain/run.py",
            [*PRETRAIN, "encoder=hub:no/such:model"],
            "encoder_download=true",
        ),
        ("finetune/rt1.py", ["frame_objective.target=encoder"], "frame_objective.target=encoder"),
    ],
)
def test_bad_input_is_one_clear_line(folder, monkeypatch, capsys, script, arguments, message):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TORCH_HOME", str(folder / "home"))
    with pytest.raises(SystemExit) as exit:
        run(script, *arguments, "name=refused")
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("runs/refused").exists()
