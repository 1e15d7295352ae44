"""The loop: a run is a function of its config, whatever interrupts it."""

import json
import os
import signal
import time

import pytest
import torch
from torch import nn

from selfflow_robotics.data.sampler import EpochSampler
from selfflow_robotics.errors import UserError
from selfflow_robotics.training.checkpoint import latest_checkpoint, load_part, save_checkpoint
from selfflow_robotics.training.compile import compile_blocks, compiles, missing_compiler
from selfflow_robotics.training.device import (
    choose_device,
    enough_memory,
    keep_freed_memory,
    set_threads,
)
from selfflow_robotics.training.loop import StepLoss, TrainConfig, _FiniteCheck, train
from selfflow_robotics.training.metrics import MetricsLog
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers, lr_factor
from selfflow_robotics.training.state import TrainState
from selfflow_robotics.training.teacher import ema_decay, make_teacher, update_teacher


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.head(x)


def new_state() -> TrainState:
    torch.manual_seed(0)
    model = Net()
    return TrainState(model, make_teacher(model), build_optimizers(model, OptimizerConfig()))


def run_to(
    steps, folder, state, stop_at=None, poison=None, on_sample=None, kill=signal.SIGINT, **settings
):
    def loss_fn(batch, generator):
        if stop_at is not None and state.step == stop_at:
            os.kill(os.getpid(), kill)
        x = batch + 0.1 * torch.randn(batch.shape, generator=generator)
        loss = (state.model(x) - x.sum(dim=1, keepdim=True)).square().mean()
        if state.step == poison:
            loss = loss * float("nan")
        return StepLoss(loss, len(batch))

    config = TrainConfig(**{"steps": steps, "log_every": 1, "save_every": 2, **settings})
    data = torch.randn(20, 6, generator=torch.Generator().manual_seed(3))
    sampler = EpochSampler(20, 8, seed=0)
    train(
        config, state, lambda step: data[sampler.batch(step)], loss_fn, folder,
        seed=0, device=torch.device("cpu"), precision="fp32", extra={}, on_sample=on_sample,
    )  # fmt: skip


def losses(folder):
    return [
        json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def test_stopping_and_going_on_changes_no_bit(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    straight = new_state()
    run_to(7, tmp_path / "a", straight)
    with pytest.raises(KeyboardInterrupt):
        run_to(7, tmp_path / "b", new_state(), stop_at=3)
    resumed = new_state()
    run_to(7, tmp_path / "b", resumed)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    for name in ("model", "teacher"):
        expected = getattr(straight, name).state_dict()
        for key, value in getattr(resumed, name).state_dict().items():
            assert torch.equal(value, expected[key]), key


def test_a_finished_run_is_left_as_it_is_whatever_this_machine_prefers(tmp_path, capsys):
    run_to(2, tmp_path, new_state())
    (manifest,) = tmp_path.glob("checkpoints/*/manifest.json")
    state = new_state()
    before = state.model.head.weight.clone()
    train(
        TrainConfig(steps=2), state, None, None, tmp_path,
        seed=0, device=torch.device("cpu"), precision="bf16", extra={},
    )  # fmt: skip
    assert "is already finished: 2 steps" in capsys.readouterr().out
    assert torch.equal(state.model.head.weight, before)  # nothing was loaded
    assert manifest.exists()


def test_samples_are_made_once_and_are_no_part_of_a_steps_time(tmp_path):
    seen = []

    def on_sample(path):
        path.write_bytes(b"picture")
        seen.append(path)
        time.sleep(0.3)

    run_to(4, tmp_path, new_state(), on_sample=on_sample, sample_every=2, log_every=3)
    assert len(seen) == 2
    samples = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert samples == ["step_0000002.png", "step_0000004.png"]
    records = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert max(record["step_s"] for record in records) < 0.25


def samples_of(run):
    return sorted(int(path.stem.removeprefix("step_")) for path in run.glob("samples/*"))


@pytest.mark.parametrize(("until", "left"), [(4, [2, 4]), (2, [2])])
def test_samples_that_a_kill_prevented_are_made_by_the_next_start(tmp_path, until, left, capsys):
    class Killed(Exception):
        pass

    def killed(path):
        path.write_bytes(b"pict")
        if state.step == until:
            raise Killed

    def on_sample(path):
        path.write_bytes(f"step {again.step}".encode())

    state, again = new_state(), new_state()
    with pytest.raises(Killed):
        run_to(4, tmp_path, state, on_sample=killed, sample_every=2)
    assert samples_of(tmp_path) == left[:-1]
    run_to(until, tmp_path, again, on_sample=on_sample, sample_every=2)
    assert samples_of(tmp_path) == left
    newest = tmp_path / "samples" / f"step_{until:07d}.png"
    assert newest.read_text() == f"step {until}"
    assert "already finished" in capsys.readouterr().out
    before = newest.stat().st_mtime_ns
    run_to(until, tmp_path, again, on_sample=on_sample, sample_every=2)
    assert newest.stat().st_mtime_ns == before


def test_a_run_that_can_make_no_samples_ends_all_the_same(tmp_path):
    run_to(2, tmp_path, new_state(), on_sample=lambda path: None)
    run_to(2, tmp_path, new_state(), on_sample=lambda path: None)
    assert samples_of(tmp_path) == []


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_ends_a_run_with_a_checkpoint(tmp_path, kill):
    before = signal.getsignal(kill)
    with pytest.raises(KeyboardInterrupt) as stop:
        run_to(9, tmp_path, new_state(), stop_at=2, kill=kill)
    assert stop.value.args == (kill,)
    assert latest_checkpoint(tmp_path).name == "step_0000003"
    assert signal.getsignal(kill) == before


@pytest.mark.parametrize("kill", [signal.SIGHUP, signal.SIGINT])  # nohup; `command &` of a script
def test_what_a_process_ignores_does_not_end_its_run(tmp_path, kill):
    before = signal.signal(kill, signal.SIG_IGN)
    try:
        run_to(4, tmp_path, new_state(), stop_at=2, kill=kill)
    finally:
        signal.signal(kill, before)
    assert latest_checkpoint(tmp_path).name == "step_0000004"


class Reordered(Net):
    """The same parameters, made in another order."""

    def __init__(self):
        super().__init__()
        blocks, head = self.blocks, self.head
        del self.blocks, self.head
        self.head, self.blocks = head, blocks


def _trained(folder, model):
    state = TrainState(model, make_teacher(model), build_optimizers(model, OptimizerConfig()))
    run_to(3, folder, state)
    return state


def test_optimiser_state_follows_the_names_of_parameters(tmp_path):
    torch.manual_seed(0)
    saved = _trained(tmp_path, Net())
    model = Reordered()
    other = TrainState(model, make_teacher(model), build_optimizers(model, OptimizerConfig()))
    other.load(latest_checkpoint(tmp_path))
    moments = [
        {
            name: state.optimizers[0].state[parameter]["exp_avg"]
            for name, parameter in state.model.named_parameters()
            if parameter in state.optimizers[0].state
        }
        for state in (saved, other)
    ]
    assert list(moments[0]) != list(moments[1])
    assert moments[0].keys() == moments[1].keys() > {"head.bias"}
    assert all(torch.equal(moments[1][name], value) for name, value in moments[0].items())


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.update({"AdamW/tail.bias/exp_avg": torch.zeros(1)}),
        lambda state: state.update({"AdamW/head.bias/exp_avg": torch.zeros(2)}),
        lambda state: state.update({"AdamW/blocks.0.weight/exp_avg": torch.zeros(6, 6)}),
        lambda state: state.update({"0/1/exp_avg": torch.zeros(6)}),
        lambda state: state.pop("AdamW/head.bias/exp_avg_sq"),
        lambda state: state.update({"Muon/blocks.0.weight/momentum": torch.zeros(6, 6)}),
    ],
    ids=["unknown", "shape", "other optimiser", "by place", "cut", "entry"],
)
def test_optimiser_state_that_does_not_fit_is_refused(tmp_path, damage):
    state = _trained(tmp_path, Net())
    parts = {
        name: load_part(latest_checkpoint(tmp_path), name)
        for name in ("model", "teacher", "optimizer")
    }
    damage(parts["optimizer"])
    other = save_checkpoint(tmp_path / "other", 3, parts, {})
    with pytest.raises(UserError, match="optimizer state"):
        state.load(other)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path):
    state = new_state()
    with pytest.raises(UserError, match="not finite at step 3"):
        run_to(7, tmp_path, state, poison=3)
    assert all(p.isfinite().all() for p in state.model.parameters())


def test_the_first_step_that_was_not_finite_is_remembered_until_it_is_read(tmp_path):
    finite = _FiniteCheck(tmp_path, torch.device("cpu"))
    for step, loss in enumerate([1.0, float("inf"), float("nan"), 2.0]):
        finite.note(torch.tensor(loss, requires_grad=True), torch.tensor(1.0), step)
    with pytest.raises(UserError, match=r"not finite at step 1 .*\(loss inf, gradient norm 1.0\)"):
        finite.check()


def test_compiling_without_a_compiler_is_refused_before_any_work(monkeypatch, tmp_path):
    for compiler in (str(tmp_path / "missing"), "false", ""):
        monkeypatch.setenv("CXX", compiler)
        with pytest.raises(UserError, match="CXX"):
            TrainConfig(compile="on")
        assert not compiles("auto", torch.device("cuda"))
    TrainConfig(compile="auto")
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert "Python.h" in (missing_compiler() or "")
    monkeypatch.setattr(torch, "__file__", "/a folder/torch/__init__.py")
    assert "/a folder/torch" in (missing_compiler() or "")


def test_compiling_is_for_gpus_unless_asked_for_and_keeps_names_and_copies():
    assert not compiles("auto", torch.device("cpu"))
    assert compiles("on", torch.device("cpu"))
    assert not compiles("off", torch.device("cuda"))
    model = Net()
    names = list(model.state_dict())
    compile_blocks(model)
    assert list(model.state_dict()) == names
    assert all(block._compiled_call_impl is not None for block in model.blocks)
    assert model.head._compiled_call_impl is None


def test_keeping_freed_memory_is_harmless_and_can_be_repeated():
    assert keep_freed_memory() == keep_freed_memory()
    assert torch.ones(1000, 1000).sum() == 1e6


def test_teacher_is_the_moving_average():
    model = Net()
    teacher = make_teacher(model)
    before = teacher.head.weight.clone()
    with torch.no_grad():
        model.head.weight.add_(1.0)
    update_teacher(teacher, model, decay=0.9)
    torch.testing.assert_close(teacher.head.weight, before + 0.1)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert ema_decay(0.999, 0) == 0.1
    assert ema_decay(0.999, 10**6) == 0.999


def test_learning_rate_warms_up_holds_and_decays():
    config = OptimizerConfig(warmup_steps=10, constant_until=0.3, final_lr=0.02)
    assert lr_factor(0, 100, config) == pytest.approx(0.1)
    assert lr_factor(20, 100, config) == 1.0
    assert lr_factor(100, 100, config) == pytest.approx(0.02)


def test_an_epoch_sees_every_sample_once_and_order_depends_on_seed_alone():
    sampler = EpochSampler(10, 4, seed=1)
    seen = [i for step in range(5) for i in sampler.batch(step)]
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert EpochSampler(10, 4, seed=1).batch(3) == sampler.batch(3)
    assert EpochSampler(10, 4, seed=2).batch(0) != sampler.batch(0)
    assert EpochSampler(10, 4, 1, "other").batch(0) != sampler.batch(0)


@pytest.mark.parametrize(
    "setting", [{"steps": 0}, {"steps": -5}, {"steps": 10**30}, {"ema_decay": 1.0}]
)
def test_impossible_training_settings_are_refused(setting):
    with pytest.raises(UserError):
        TrainConfig(**setting)


@pytest.mark.parametrize(
    "setting",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"constant_until": 2.0},
        {"betas": (0.9, 2.0)},
        {"muon_momentum": -1.0},
        {"muon_momentum": 5.0},
        {"final_lr": -5.0},
    ],
)
def test_impossible_optimizer_settings_are_refused(setting):
    with pytest.raises(UserError):
        OptimizerConfig(**setting)


@pytest.mark.parametrize("name", ["mps", "xpu", "meta"])
def test_other_devices_are_refused(name):
    with pytest.raises(UserError, match=f"device '{name}' is not supported, only cpu and cuda"):
        choose_device(name)


@pytest.mark.parametrize("count", [0, 100_000_000_000])
def test_threads_that_no_machine_has_are_refused(count):
    with pytest.raises(UserError, match="threads must be from 1 to"):
        set_threads(count)


def test_a_failed_allocation_is_one_line_and_other_errors_stay():
    with pytest.raises(UserError, match=r"out of memory; less$"), enough_memory("less"):
        torch.empty(2**50)
    with pytest.raises(UserError, match=r"out of memory"), enough_memory("less"):
        torch.empty(2**40, 2**40)
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("less"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


def test_a_batch_of_a_hundred_epochs_is_a_mistake():
    EpochSampler(10, 1000, seed=0)
    with pytest.raises(UserError, match="choose a smaller batch size"):
        EpochSampler(10, 1_000_000_000_000, seed=0)


def test_foreign_lines_of_the_metrics_are_dropped_on_resuming(tmp_path):
    path = tmp_path / "metrics.jsonl"
    nested, huge = "[" * 100_000, '{"step": 1' + "0" * 400 + "}"
    path.write_text(
        '{"step": 0}\n[1]\n{"step": "x"}\n5\n'
        f'{nested}\n{huge}\n{{"step": 1}}\n{{"step": 2}}\n{{"st'
    )
    MetricsLog(path, 2).write({"step": 2})
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'


def test_metrics_that_are_no_text_or_a_folder_are_one_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"metrics.jsonl is not text; move it away"):
        MetricsLog(path, 2)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"cannot read or write .*metrics.jsonl"):
        MetricsLog(path, 2)
