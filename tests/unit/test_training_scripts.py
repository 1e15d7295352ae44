"""The training commands on data and runs that are not as they should be."""

import runpy
import shutil
from pathlib import Path

import pytest

from selfflow_robotics.data.rlds.writer import RldsWriter
from selfflow_robotics.data.shapes import shape_latents
from tests.rlds_sets import IMAGE_SIZE, make_steps

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finetune():
    return runpy.run_path(str(ROOT / "finetune/rt1.py"), run_name="imported")["main"]


@pytest.fixture(scope="module")
def pretrain():
    return runpy.run_path(str(ROOT / "pretrain/run.py"), run_name="imported")["main"]


def write_set(root, instructions):
    with RldsWriter(root, "toy", "0.1.0", IMAGE_SIZE, {"simulator": "none"}, 4) as writer:
        for episode, words in enumerate(instructions):
            writer.write_episode(make_steps(episode, 5, words), {"success": True, "seed": episode})
        return writer.finish()


@pytest.mark.parametrize("command", ["finetune", "pretrain"])
def test_instructions_longer_than_the_network_reads_end_the_command(
    command, request, tmp_path, capsys
):
    long = "pick the green can and place it upright beside the plate"
    data = write_set(tmp_path / "data", ["pick coke can", f"{long} left", f"{long} right"])
    main = request.getfixturevalue(command)
    arguments = ["--data", str(data), f"runs_dir={tmp_path}/runs", "device=cpu"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, f"model.text_bytes={len(long)}"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"{long} left" in error
    assert f"{long} right" in error
    assert f"model.text_bytes={len(long) + 6}" in error


TINY = [
    "device=cpu", "threads=1", "image_batch=2", "clip_batch=2", "clip_frames=2",
    "model.sit.width=16", "model.sit.depth=2", "model.sit.heads=2", "model.image_size=[16,32]",
    "objective.teacher_layer=2", "train.save_every=1", "train.sample_every=0",
]  # fmt: skip


def test_a_copied_run_goes_on_with_moved_data_and_never_with_others(
    pretrain, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "data", ["pick coke can", "move sponge"])
    other = write_set(tmp_path / "other", ["pick coke can", "move apple"])
    pretrain([*TINY, "--data", "data/toy/0.1.0", "name=a", "train.steps=1"])
    shutil.copytree("runs/a", "disk/b")
    (tmp_path / "data").rename(tmp_path / "moved")
    again = [*TINY, "name=b", "runs_dir=disk", "train.steps=2", "train.log_every=1"]
    with pytest.raises(SystemExit) as stop:
        pretrain([*again, "--data", str(other)])
    assert stop.value.code == 2
    assert "trained on different data" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "moved")
    again[again.index("runs_dir=disk")] = "runs_dir=../disk"
    pretrain([*again, "--data", "toy/0.1.0"])
    assert "resuming ../disk/b at step 1 of 2" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        pretrain([*again, "--data", "toy/0.1.0", "image_batch=4"])
    assert stop.value.code == 2
    assert "image_batch=2" in capsys.readouterr().err
    steps = sorted(Path("../disk/b/checkpoints").glob("step_*"))
    for step in steps:
        (step / "manifest.json").unlink()
    with pytest.raises(SystemExit) as stop:
        pretrain([*again, "--data", "toy/0.1.0"])
    assert stop.value.code == 2
    assert "manifest.json" in capsys.readouterr().err
    assert sorted(Path("../disk/b/checkpoints").glob("step_*")) == steps


@pytest.fixture(scope="module")
def images():
    return runpy.run_path(str(ROOT / "pretrain/images.py"), run_name="imported")["main"]


def test_a_moved_image_run_goes_on_and_never_with_other_latents(
    images, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tiny = ["experiment=debug", "device=cpu", "train.steps=2", "train.save_every=1", "name=a"]
    images(tiny)
    before = shutil.copytree("runs/a", "disk/a")  # this process still holds the former
    shutil.rmtree("disk/a/checkpoints/step_0000002")  # as if interrupted
    shutil.move("datasets", "elsewhere")
    images([*tiny, "runs_dir=disk", "root=elsewhere"])
    assert (tmp_path / before / "checkpoints/step_0000002").is_dir()
    copy = shutil.copytree("disk/a", "third/a")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        images([*tiny, "runs_dir=third", "--data", str(shape_latents(Path("others"), 80, 16))])
    assert stop.value.code == 2
    assert "different data" in capsys.readouterr().err
    assert (tmp_path / copy / "checkpoints/step_0000002").is_dir()


@pytest.mark.parametrize(
    ("command", "experiment"),
    [
        *(("finetune", name) for name in ("rt1_joint", "rt1_policy", "rt1_world_model")),
        ("finetune", "fractal_xl"),
        ("pretrain", "rt1_video"),
    ],
)
def test_experiments_on_real_data_do_not_record_any(
    request, tmp_path, monkeypatch, capsys, command, experiment
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        request.getfixturevalue(command)([f"experiment={experiment}"])
    assert stop.value.code == 2
    assert "--data" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_evaluation_during_training_needs_a_role_that_acts(finetune, capsys):
    for wrong in (["roles.policy=0", "roles.joint=0"], ["evaluation.replan_steps=7"]):
        with pytest.raises(SystemExit) as stop:
            finetune(["train.evaluate_every=5", *wrong])
        assert stop.value.code == 2
        assert "evaluat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"), [("loss_weights.actions", ".inf"), ("roles.policy", "often")]
)
def test_a_wrong_value_of_a_free_key_is_named(finetune, capsys, key, value):
    with pytest.raises(SystemExit) as stop:
        finetune([f"{key}={value}"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert key in error
    assert f"'{value}'" in error
