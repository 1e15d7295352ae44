"""Training in several processes: the same run as in one, whatever happens to them.

Two processes run all of `JOBS` in turn. One of them is killed in the first job, so that torchrun
starts them again.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from selfflow_robotics.training.checkpoint import check_files, latest_checkpoint, load_part
from tests.tiny_runs import loaded, losses, run

ROOT = Path(__file__).parents[2]
JOBS: list[dict] = [
    {"folder": "replicate", "send": [[1, 4, signal.SIGKILL]]},
    {"folder": "fsdp", "parallel": "fsdp"},
    {"folder": "accumulate", "parallel": "fsdp", "steps": 2, "accumulate": 3},
    {"folder": "stopped", "parallel": "fsdp", "send": [[1, 3, signal.SIGTERM]]},
    {"folder": "stopped", "parallel": "fsdp"},
    {"folder": "asked", "send": [[1, 1, signal.SIGUSR1]]},
    {"folder": "poison", "parallel": "fsdp", "poison": [1, 4]},
    {"folder": "two", "parallel": "fsdp", "send": [[0, 2, signal.SIGTERM]]},
    {"folder": "evaluated", "parallel": "fsdp", "evaluate_every": 2},
]


def processes(count: int, jobs: list[dict], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1",
         f"--nproc-per-node={count}", "-m", "tests.tiny_runs", json.dumps(jobs)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of all jobs, and of the same run in one process."""
    folder = tmp_path_factory.mktemp("parallel")
    processes(2, JOBS, folder)
    run(folder / "one")
    return folder


def digest(folder: Path) -> str:
    return (folder / "digest").read_text()


@pytest.mark.parametrize("parallel", ["replicate", "fsdp"])
def test_two_processes_have_the_losses_of_one(runs, parallel):
    assert losses(runs / parallel) == pytest.approx(losses(runs / "one"), rel=1e-6)


def test_batches_of_a_step_are_averaged_whatever_parts_of_the_network_they_use(runs):
    run(runs / "alone", steps=2, accumulate=3)
    assert losses(runs / "accumulate") == pytest.approx(losses(runs / "alone"), rel=1e-6)


def test_a_killed_process_is_started_again_and_no_bit_changes(runs):
    assert (runs / "replicate/sent-4").exists()
    assert losses(runs / "replicate") == losses(runs / "asked")
    assert digest(runs / "replicate") == digest(runs / "asked")


def test_a_signal_to_one_process_stops_all_and_resuming_changes_no_bit(runs):
    assert (runs / "stopped/checkpoints/step_0000004").exists()
    assert losses(runs / "stopped") == losses(runs / "fsdp")
    assert digest(runs / "stopped") == digest(runs / "fsdp")


def test_sigusr1_to_one_process_saves_and_goes_on(runs):
    found = sorted(path.name for path in (runs / "asked/checkpoints").iterdir())
    assert found == ["step_0000002", "step_0000003", "step_0000006"]


def test_all_processes_stop_before_an_update_by_a_loss_that_is_not_finite(runs):
    errors = [(runs / f"poison/error-{rank}").read_text() for rank in range(2)]
    assert all("not finite at step 4" in error for error in errors)
    assert losses(runs / "poison") == losses(runs / "fsdp")[:4]
    assert latest_checkpoint(runs / "poison").name == "step_0000003"


def test_evaluations_during_training_change_no_bit(runs):
    assert losses(runs / "evaluated") == losses(runs / "fsdp")
    assert digest(runs / "evaluated") == digest(runs / "fsdp")
    results = sorted(path.name for path in (runs / "evaluated/eval/in_training").glob("*.json"))
    assert results[0] == "step_0000002.json"


def test_one_and_three_processes_load_what_two_have_saved(runs):
    folder = runs / "two"
    assert loaded(folder) == digest(folder)
    processes(3, [{"folder": "two", "parallel": "fsdp", "load": True}], runs)
    assert (folder / "loaded-3").read_text() == digest(folder)
    one = runs / "one"
    shutil.copytree(one, runs / "of-one")
    processes(2, [{"folder": "of-one", "parallel": "fsdp", "load": True}], runs)
    assert (runs / "of-one/loaded-2").read_text() == digest(one)


def test_the_teacher_of_a_sharded_checkpoint_is_a_file_like_any_other(runs):
    sharded, single = (latest_checkpoint(runs / name) for name in ("fsdp", "one"))
    check_files(sharded)
    assert (sharded / "teacher.safetensors").is_file()
    found, expected = (load_part(one, "teacher") for one in (sharded, single))
    assert found.keys() == expected.keys()
    damaged = next((sharded / "shards").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x55")
    with pytest.raises(Exception, match="damaged"):
        load_part(sharded, "model")


@pytest.mark.parametrize(("kills", "count"), [(4, 1), (2, 2)])
def test_no_kill_during_a_save_loses_or_mixes_checkpoints(tmp_path, kills, count):
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_saves", str(tmp_path), str(kills), str(count)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
