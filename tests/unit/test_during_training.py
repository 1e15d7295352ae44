"""Evaluation during training: training goes on as without it, and no result gets lost."""

import json
import time
from pathlib import Path

import pytest
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation import play_checkpoint
from selfflow_robotics.evaluation.during_training import (
    STEP,
    DuringTrainingConfig,
    EvaluatedTrainConfig,
    result_text,
)
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.training.checkpoint import MANIFEST, save_checkpoint
from selfflow_robotics.training.trackers import numbers_of
from tests.fractal import FRACTAL_STATS
from tests.networks import robot_network, robot_record, waken
from tests.tiny_runs import INSTANT, RATE, evaluator, losses, records, run, state_digest

FAILING = "print('some\\nlines', flush=True); raise SystemExit('no such simulator')"
ENDLESS = "import time; time.sleep(1000)"


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / "checkpoints" / f"step_{step:07d}"
    path.mkdir(parents=True)
    (path / MANIFEST).touch()
    return path


def result(folder: Path, step: int) -> Path:
    path = folder / "eval" / "in_training" / f"step_{step:07d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"tasks": {"pick_coke_can": RATE}}))
    return path


def polled(watching) -> dict:
    """The first metrics that are not empty."""
    until = time.monotonic() + 30
    while not (found := watching.poll()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def test_training_computes_the_same_with_and_without(tmp_path):
    plain = run(tmp_path / "plain")
    watched = run(tmp_path / "watched", evaluate_every=2, keep_checkpoints=1)
    assert losses(tmp_path / "watched") == losses(tmp_path / "plain")
    assert state_digest(watched) == state_digest(plain)
    saved = sorted(path.name for path in (tmp_path / "watched/checkpoints").iterdir())
    assert saved[-1] == "step_0000006"
    with evaluator(tmp_path / "watched", 2, 6) as rest:
        found = list(rest.rest())
    logged = [one for one in records(tmp_path / "watched") if STEP in one]
    assert {one[STEP] for one in [*logged, *found]} >= {6}


def test_results_come_in_order_and_are_logged_once(tmp_path):
    checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    with evaluator(tmp_path, 2, 4) as watching:
        watching.resume(0)
        assert watching.poll() == {}
        assert watching.shown == {}
        watching.saving(2)
        first = polled(watching)
        watching.saving(4)
        assert [one[STEP] for one in [first, *watching.rest()]] == [2, 4]
        assert watching.shown == {"success": "50% at 4"}
        assert watching.poll() == {}
    assert first == {STEP: 2, **{f"evaluation/pick_coke_can/{k}": v for k, v in RATE.items()}}
    assert "pick_coke_can 50 % [20, 80] in 4 episodes" in result_text(first)
    assert numbers_of({"step": 3, "role": "policy", **first})["evaluation/step"] == 2


def test_a_checkpoint_stays_while_it_is_needed_and_only_the_newest_waits(tmp_path, caplog):
    for step in (2, 4, 6):
        checkpoint(tmp_path, step)
    with evaluator(tmp_path, 2, 10, ENDLESS) as watching:
        watching.saving(2)
        assert watching.is_needed(2)
        assert watching.poll() == {}
        watching.saving(4)
        watching.saving(6)
        watching.saving(8)
        assert [step for step in range(1, 11) if watching.is_needed(step)] == [2, 8]
    left_out, cut_off = caplog.messages
    assert "step 4" in left_out
    assert "step 2" in cut_off


def test_a_failing_evaluator_is_one_warning(tmp_path, caplog):
    run(tmp_path, evaluate_every=2, script=FAILING, steps=8)
    with evaluator(tmp_path, 2, 8, FAILING) as watching:
        assert list(watching.rest()) == []
    assert len(losses(tmp_path)) == 8
    by_run = [one for one in caplog.messages if "no such simulator" in one]
    assert len(by_run) == 2  # of the run, and of what was left of it


@pytest.mark.parametrize("command", [["/no/such/python"], ["true"]])
def test_a_command_that_cannot_start_or_writes_nothing_is_a_warning(tmp_path, caplog, command):
    checkpoint(tmp_path, 2)
    watching = evaluator(tmp_path, 2, 2)
    watching._command = command
    with watching:
        assert list(watching.rest()) == []
    assert "step 2 failed" in caplog.text


def test_what_was_cut_off_is_made_again_and_what_is_not_logged_is_logged(tmp_path):
    for step in (2, 3, 4, 5, 6):
        checkpoint(tmp_path, step)
    result(tmp_path, 2), result(tmp_path, 4)
    later = result(tmp_path, 8)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 3, STEP: 2}) + "\n{torn")
    with evaluator(tmp_path, 2, 100) as watching:
        watching.resume(6)
        assert not later.exists()  # training repeats this step
        assert watching.is_needed(6)
        assert [one[STEP] for one in watching.rest()] == [4, 6]


def test_a_run_that_is_done_has_nothing_left(tmp_path):
    checkpoint(tmp_path, 6)
    result(tmp_path, 6)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 6, STEP: 6}) + "\n")
    with evaluator(tmp_path, 4, 6, FAILING) as watching:
        assert list(watching.rest()) == []


def test_due_are_every_n_th_step_and_the_last(tmp_path):
    watching = evaluator(tmp_path, 4, 10)
    assert [step for step in range(1, 11) if watching.is_due(step)] == [4, 8, 10]


@pytest.mark.parametrize(
    "settings",
    [
        {"stop": "sequential", "target": 0.5},
        {"shard": "1/2"},
        {"task": "pick_cola_can"},
        {"replan_steps": 0},
        {"num_episodes": 0},
    ],
)
def test_settings_that_do_not_fit_are_refused(settings):
    with pytest.raises(UserError):
        DuringTrainingConfig(**settings)
    with pytest.raises(UserError, match="evaluate_every"):
        EvaluatedTrainConfig(evaluate_every=-1)


def test_the_child_plays_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RobotConfig(SiTConfig(width=24, depth=1, heads=2), image_size=(32, 32))
    extra = robot_record(config, ["policy"], FRACTAL_STATS, {"simulator": "tabletop"})
    weights = waken(Network(robot_network(config))).state_dict()
    path = save_checkpoint(Path("runs/a/checkpoints"), 5, {"teacher": weights}, extra)
    request = {
        "checkpoint": str(path),
        "result": "runs/a/eval/in_training/step_0000005.json",
        "joint": False,
        "config": {"task": "close_drawer", "num_episodes": 1, "simpler": {}},
    }
    threads = torch.get_num_threads()
    try:
        assert play_checkpoint.main([json.dumps(request)]) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads(Path(request["result"]).read_text())
    rate = found["tasks"]["close_drawer"]
    assert (rate["episodes"], rate["errors"]) == (1, 0)
    report = Path(request["result"]).parent / rate["folder"] / "report.json"
    assert json.loads(report.read_text())["policy_provenance"]["checkpoint"] == str(path)
    request["checkpoint"] = "nowhere"
    assert play_checkpoint.main([json.dumps(request)]) == 2
    assert INSTANT  # the stand-in for this child in the other tests
