"""The commands as a user runs them, at `experiment=debug`, one after the other in one folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.rlds_sets import GOLDEN_SET

ROOT = Path(__file__).resolve().parents[2]


def command(folder: Path, script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / script), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(folder: Path, script: str, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(
        command(folder, script, *arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode == 0) == ok, done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which the whole road has been gone once."""
    folder = tmp_path_factory.mktemp("road")
    run(folder, "pretrain/run.py", "experiment=debug", "threads=1")
    run(folder, "finetune/rt1.py", "experiment=debug", "threads=1")
    return folder


def test_pretraining_leaves_a_run_that_can_be_read(folder):
    made = folder / "runs" / "debug-pretrain"
    lines = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 11
    logged = {"flow_loss", "teacher_student_cosine", "grad_norm", "tokens_per_s", "data_wait_s"}
    assert logged <= lines[-1].keys()
    assert lines[-1]["cosine_by_layer/t=0.6"][0] < 1
    by_role = {line["role"]: line for line in lines}
    assert all(len(line["loss_by_t/first_frame"]) == 10 for line in by_role.values())
    assert (made / "samples" / "step_0000012.png").stat().st_size > 1000
    assert (made / "config.yaml").exists()


def test_finetuning_measures_its_policy_on_held_out_episodes(folder):
    lines = (folder / "runs/debug-rt1/metrics.jsonl").read_text().splitlines()
    measured = {
        line["step"]: line["held_out_policy_loss"]
        for line in map(json.loads, lines)
        if "held_out_policy_loss" in line
    }
    assert 11 in measured
    assert all(0 < loss < 10 for loss in measured.values())


def test_finetuning_starts_from_the_pretraining_run_and_says_so(folder):
    again = run(folder, "finetune/rt1.py", "experiment=debug", "threads=1", "name=other")
    assert "from runs/debug-pretrain/checkpoints/step_0000012" in again.stdout
    assert "using datasets/" in again.stdout


def test_a_finished_run_is_left_as_it_is(folder):
    before = (folder / "runs/debug-rt1/checkpoints/step_0000012/model.safetensors").read_bytes()
    run(folder, "finetune/rt1.py", "experiment=debug", "threads=1")
    after = (folder / "runs/debug-rt1/checkpoints/step_0000012/model.safetensors").read_bytes()
    assert before == after


def test_another_configuration_never_continues_a_run(folder):
    done = run(folder, "finetune/rt1.py", "experiment=debug", "threads=1", "seed=5", ok=False)
    assert "holds a run with seed=0, not 5" in done.stderr


def test_evaluation_ends_in_a_table_with_intervals(folder):
    run_folder = folder / "runs" / "debug-rt1"
    arguments = ["--task", "pick_coke_can", "experiment=debug", "--checkpoint", str(run_folder)]
    done = run(folder, "eval/simpler.py", *arguments)
    assert "the MuJoCo tabletop" in done.stdout
    assert "network" in done.stdout
    assert "random" in done.stdout
    assert "95 % interval" in done.stdout
    (ledger,) = run_folder.glob("eval/*/episodes.jsonl")
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert all(record["steps"] == 80 and record["error"] is None for record in records)
    assert list(ledger.parent.glob("videos/*.mp4"))


def test_world_model_writes_its_pictures(folder):
    run_folder = folder / "runs" / "debug-rt1"
    done = run(folder, "eval/world_model.py", "experiment=debug", "--checkpoint", str(run_folder))
    assert "follow" in done.stdout
    (results,) = run_folder.glob("eval/world_model-*")
    report = json.loads((results / "report.json").read_text())
    assert len(report["psnr_db"]) == 6
    assert (results / "strip.png").exists()
    assert (results / "imagined.mp4").exists()
    arguments = ["experiment=debug", "--checkpoint", str(run_folder)]
    again = run(folder, "eval/world_model.py", *arguments)
    assert "already measured" in again.stdout
    assert again.stdout.splitlines()[-6:] == done.stdout.splitlines()[-6:]
    refused = run(folder, "eval/world_model.py", *arguments, "num_frames=7", ok=False)
    assert refused.stderr == "error: num_frames must be at most 6 for this network\n"


def test_killed_and_repeated_is_straight_through_to_the_last_bit(folder):
    """4 steps are 2 steps, kill -9, and the same command again: every loss, every weight."""
    data = next((folder / "datasets").glob("*_6/0.1.0"))
    shared = [
        *("experiment=debug", "threads=1", "--data", str(data), "train.steps=4"),
        *("train.save_every=2", "train.log_every=1", "init=none"),
    ]
    run(folder, "finetune/rt1.py", *shared, "name=straight")
    killed = subprocess.Popen(
        command(folder, "finetune/rt1.py", *shared, "name=killed"),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    marker = folder / "runs/killed/checkpoints/step_0000002/manifest.json"
    deadline = time.monotonic() + 120
    while not marker.exists() and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    # Whatever the race left, the second half starts from step 2.
    for later in (folder / "runs/killed/checkpoints").glob("step_000000[34]"):
        for file in later.iterdir():
            file.unlink()
        later.rmdir()
    again = run(folder, "finetune/rt1.py", *shared, "name=killed")
    assert "resuming runs/killed at step 2 of 4" in again.stdout
    straight, resumed = (folder / "runs" / name for name in ("straight", "killed"))

    def losses(path: Path) -> list:
        lines = (path / "metrics.jsonl").read_text().splitlines()
        return [(r["step"], r["loss"], r["grad_norm"]) for r in map(json.loads, lines)]

    assert losses(straight) == losses(resumed)
    for name in ("model", "teacher", "optimizer"):
        one = load_file(straight / f"checkpoints/step_0000004/{name}.safetensors")
        two = load_file(resumed / f"checkpoints/step_0000004/{name}.safetensors")
        assert one.keys() == two.keys()
        assert all((one[key] == two[key]).all() for key in one)


def test_real_simpler_recordings_train_too(folder):
    """A data set that TensorFlow Datasets wrote of SIMPLER's pictures, through the same reader."""
    run(
        folder, "finetune/rt1.py", "experiment=debug", "threads=1", "--data", str(GOLDEN_SET),
        "name=golden", "validation=0", "init=none", "train.steps=3",
    )  # fmt: skip
    lines = (folder / "runs/golden/metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["loss"] > 0 for line in lines)


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("eval/simpler.py", ["--task", "pick_coke_cn"], "did you mean pick_coke_can"),
        (
            "eval/simpler.py",
            ["--task", "pick_coke_can", "--checkpoint", "no/where"],
            "no checkpoint",
        ),
        ("finetune/rt1.py", ["train.stepz=3"], "train.steps"),
        ("finetune/rt1.py", ["train.steps=-5"], "train.steps must be at least 1, got -5"),
        ("pretrain/run.py", ["objective.gamma=-1"], "objective.gamma must be >= 0"),
        ("finetune/rt1.py", ["--data", "no/where"], "no/where"),
        ("pretrain/run.py", ["model.image_size=[60,80]"], "does not divide"),
        ("finetune/rt1.py", ["experiment=debgu"], "did you mean debug"),
        ("pretrain/run.py", ["experiment=debug", "runs_dir=/proc/no"], "cannot write"),
    ],
)
def test_bad_input_is_one_clear_line(folder, script, arguments, message):
    done = run(folder, script, *arguments, ok=False)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.returncode == 2


def test_a_truncated_checkpoint_is_one_clear_line(folder):
    source = folder / "runs/debug-rt1/checkpoints/step_0000012"
    damaged = folder / "damaged"
    damaged.mkdir()
    for file in source.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = damaged / "teacher.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    done = run(
        folder, "eval/simpler.py", "--task", "pick_coke_can", "--checkpoint", str(damaged), ok=False
    )
    assert "truncated" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_backbone_is_no_policy_and_the_error_says_what_to_do(folder):
    done = run(
        folder, "eval/simpler.py", "--task", "pick_coke_can",
        "--checkpoint", "runs/debug-pretrain", ok=False,
    )  # fmt: skip
    assert "fine-tune it first" in done.stderr
