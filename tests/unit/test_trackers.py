"""What goes with metrics.jsonl: trackers, rates, the progress bar, the warning."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.pages.run_warnings import run_warnings
from selfflow_robotics.training.loop import TrainConfig
from selfflow_robotics.training.metrics import MetricsLog, Work, by_role, early_agreement, live
from selfflow_robotics.training.trackers import check_trackers, numbers_of
from tests.tiny_runs import records, run


def write(run, steps, resumed=0, log_to=()):
    log = MetricsLog(run / "metrics.jsonl", resumed, log_to, 100)
    for step in steps:
        log.write({"step": step, "loss": torch.tensor(1.0 / (1 + step)), "role": "policy"})
    log.close()


def test_an_unknown_or_missing_tracker_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"selfflow_robotics\[wandb\]"):
        TrainConfig(log_to=("wandb",))
    monkeypatch.undo()
    check_trackers(())


def test_numbers_are_named_by_role():
    record = {"step": 3, "role": "video", "loss": 0.5, "loss_by_t": [1.0], "step_s": 0.1}
    record["held_out_policy_loss"] = 0.2
    expected = {"loss/video": 0.5, "step_s": 0.1, "held_out_policy_loss": 0.2}
    assert numbers_of(record) == expected
    assert numbers_of({"step": 3, "loss": 0.5}) == {"loss": 0.5}


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, range(5), log_to=("tensorboard",))
    write(tmp_path, range(3, 7), resumed=3, log_to=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss/policy")] == list(range(7))


def test_wandb_gets_each_step_once_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged = []
    original = wandb.Run.log
    monkeypatch.setattr(
        wandb.Run, "log", lambda self, data, step: (logged.append(step), original(self, data, step))
    )
    write(tmp_path, range(5), log_to=("wandb",))
    first = json.loads((tmp_path / "wandb.json").read_text())
    write(tmp_path, range(3, 7), resumed=3, log_to=("wandb",))
    assert logged == list(range(7))
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": first["id"], "last_step": 6}


def test_batches_of_a_step_are_logged_under_their_own_roles(tmp_path):
    roles = ("policy", "world_model", "policy")
    metrics = [{"role": role, "flow_loss": float(n)} for n, role in enumerate(roles)]
    merged = by_role(torch.tensor([1.0, 5.0, 3.0]), metrics)
    assert [(one["role"], one["loss"], one["flow_loss"]) for one in merged] == [
        ("policy", 2.0, 2.0), ("world_model", 5.0, 1.0)
    ]  # fmt: skip
    numbers = []
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log._trackers = [SimpleNamespace(write=lambda step, found: numbers.append(found))]
    log.write({"step": 0, "loss": 3.0, "step_s": 0.1}, merged)
    log.write({"step": 1, "loss": 4.0}, merged[:1])  # one role: one line
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(one["step"], one.get("role"), one["loss"]) for one in lines] == [
        (0, None, 3.0), (0, "policy", 2.0), (0, "world_model", 5.0), (1, "policy", 4.0)
    ]  # fmt: skip
    assert numbers[0] == {
        "loss": 3.0, "step_s": 0.1, "loss/policy": 2.0, "flow_loss/policy": 2.0,
        "loss/world_model": 5.0, "flow_loss/world_model": 1.0,
    }  # fmt: skip


def test_accumulated_batches_keep_their_roles(tmp_path):
    run(tmp_path, steps=2, accumulate=3)
    lines = records(tmp_path)
    assert [line.get("role") for line in lines] == 2 * [None, "policy", "world_model", "joint"]
    for step in (0, 1):
        whole, *own = (line["loss"] for line in lines if line["step"] == step)
        assert whole == pytest.approx(sum(own) / 3)


def test_early_agreement_is_warned_of_once_and_on_the_run_page(tmp_path, caplog):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0, steps=100)
    records = [
        {"step": step, "loss": 1.0, "teacher_student_cosine": cosine}
        for step, cosine in enumerate([0.2, 0.96, 0.97])
    ]
    with caplog.at_level(logging.WARNING):
        for record in records:
            log.write(record)
    assert len(caplog.records) == 1
    assert early_agreement(records, 100) == caplog.messages[0] == run_warnings(records, 100)[0]
    assert early_agreement(records, 20) is None  # step 1 is not in the first 5 % of 20
    assert early_agreement(records, 0) is None  # unknown
    assert early_agreement(records[:1], 100) is None


def test_rates_and_the_live_line():
    work = Work(peak_flops=100.0)
    work.add(8, 30.0)
    work.add(8, 30.0)
    assert work.rates(2.0, 4) == {"samples_per_s": 32.0, "mfu": 0.3}
    assert work.rates(2.0, 4) == {}
    unknown = Work()
    unknown.add(8, 30.0)
    assert unknown.rates(2.0, 1) == {"samples_per_s": 4.0}
    record = {"loss": torch.tensor(0.5), "tokens_per_s": 1234.0, "samples_per_s": 32.0, "mfu": 0.3}
    assert live(record) == {
        "loss": "0.500", "samples/s": "32", "tokens/s": "1.23e+03", "MFU": "30%"
    }  # fmt: skip
