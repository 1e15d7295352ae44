"""The planner: counts of a step against torch's own, and the tables of the commands."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.network import Network
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.planning import measure
from selfflow_robotics.planning.estimate import Estimate
from selfflow_robotics.planning.machines import MACHINES, peak_of
from selfflow_robotics.planning.trace import count_parameters, step_loss, trace_step

ROOT = Path(__file__).parents[2]
TINY = ["model.sit.width=16", "model.sit.depth=2", "model.sit.heads=2", "device=cpu", "threads=1"]


@pytest.fixture(scope="module")
def images():
    return runpy.run_path(str(ROOT / "pretrain/images.py"), run_name="imported")


@pytest.fixture(scope="module")
def work(images):
    config = images["ImagesConfig"]()
    transformer = replace(config.model.sit, width=16, depth=3, heads=2)
    config = replace(config, model=replace(config.model, sit=transformer), batch_size=4)
    return images["workload"](config)[0]


def test_the_counts_are_those_of_a_real_step(work):
    # Without a teacher: torch's counter does not know the fused attention that it uses on a CPU.
    role = work.roles[0]
    role = replace(role, objective=replace(role.objective, gamma=0.0))
    student, teacher = Network(work.network), Network(work.network).requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        terms = step_loss(work, role, student, teacher, role.batch)
        terms.loss.backward()
    cost = trace_step(work, role, role.batch)
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert cost.tokens == terms.num_tokens
    total = sum(p.numel() for p in student.parameters())
    assert count_parameters(work).total == total


def test_recomputing_takes_less_memory_and_more_flops(work):
    role = work.roles[0]
    kept = trace_step(work, role, role.batch)
    selective, full = (trace_step(work, role, role.batch, mode) for mode in ("selective", "full"))
    assert full.activations < selective.activations < kept.activations
    assert selective.flops == kept.flops
    assert 1.1 < full.flops / kept.flops < 1.5


def test_fsdp_divides_what_replicate_keeps(work):
    estimate = Estimate.of(work, gpu=True)
    whole, part = (estimate.memory(4, s, 0.0) for s in ("replicate", "fsdp"))
    for name in ("weights", "average", "optimizer", "gradients"):
        assert getattr(part, name) == getattr(whole, name) / 4
    assert whole.weights == 4 * estimate.parameters.total
    machine, mfu = MACHINES["h100"], {"image": 0.5}
    one, four = (estimate.seconds(machine, n, "replicate", mfu) for n in (1, 4))
    assert four.compute == one.compute / 4
    assert one.communication == 0 < four.communication
    twice = replace(estimate, work=replace(work, accumulate=2))
    assert twice.seconds(machine, 1, "replicate", mfu).compute == 2 * one.compute
    assert twice.samples == 2 * estimate.samples
    assert twice.memory(4, "fsdp", 0.0).peak() == part.peak() + part.gradients


def test_peak_rates_are_of_known_gpus_only():
    assert peak_of("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak_of("NVIDIA A100-SXM4-80GB", "bf16") == 312e12
    assert peak_of("NVIDIA H100 PCIe", "bf16") is None
    assert peak_of("NVIDIA GeForce RTX 4090", "bf16") is None


@pytest.mark.parametrize("script", ["pretrain/images.py", "pretrain/run.py", "finetune/rt1.py"])
def test_a_command_prints_its_plan_and_starts_nothing(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(ROOT / script), run_name="imported")["main"]
    layers = [] if "rt1" in script else ["objective.student_layer=1", "objective.teacher_layer=2"]
    more = ["policy_objective", "frame_objective"] if "rt1" in script else []
    layers += [f"{key}.teacher_layer=2" for key in more]
    threads = torch.get_num_threads()
    try:
        main([*TINY, *layers, "plan.machine=h200", "plan.gpus=[2]"])
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "2 replicate" in printed
    assert "2 fsdp" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_plan_needs_gpus(images, capsys):
    with pytest.raises(SystemExit) as stop:
        images["main"](["plan.machine=h100", "plan.gpus=[0]"])
    assert stop.value.code == 2
    assert "plan.gpus" in capsys.readouterr().err


def test_a_plan_has_low_rank_updates(capsys):
    script = runpy.run_path(str(ROOT / "finetune/rt1.py"), run_name="imported")
    roles = [f"roles.{name}=0" for name in ("joint", "world_model", "inverse_dynamics", "video")]
    layers = [f"{key}.teacher_layer=2" for key in ("policy_objective", "frame_objective")]
    script["main"]([*TINY, *roles, *layers, "lora.rank=2", "plan.machine=h100", "plan.gpus=[1]"])
    first = capsys.readouterr().out.splitlines()[0]
    assert "trained" in first
    assert "low-rank updates" in first


def test_a_frozen_backbone_needs_less(work):
    whole, part = Estimate.of(work, gpu=True), Estimate.of(replace(work, freeze=True), gpu=True)
    kept, frozen = (estimate.memory(1, "replicate", 0.0) for estimate in (whole, part))
    assert part.parameters.total == whole.parameters.total > part.parameters.trained
    assert frozen.weights == kept.weights
    for name in ("optimizer", "gradients"):
        assert getattr(frozen, name) < getattr(kept, name) / 2


def test_a_plan_without_the_latents_says_what_makes_them(images, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        images["main"](["experiment=words", "plan.machine=h100"])
    assert stop.value.code == 2
    assert "pretrain/encode.py --output latents/words" in capsys.readouterr().err


# Seconds of a step's parts by numbers of blocks, exact, in place of a clock.
COSTS = {"sit": (1.0, 0.5, 0.25), "flux": (1.0, 0.5, 0.3, 0.25, 0.1)}


@pytest.mark.parametrize("gamma", [0.8, 0.0])
@pytest.mark.parametrize("backbone", ["sit", "flux"])
def test_a_step_is_extrapolated_over_depth_and_batch(work, backbone, gamma, monkeypatch):
    config, costs, built = work.network.backbone, COSTS[backbone], []
    blocks = {"sit": (40,), "flux": (20, 30)}[backbone]
    config = replace(config, depth=40)
    if backbone == "flux":
        config = FluxConfig(width=48, double=20, single=30, heads=2)
    objective = ObjectiveConfig(gamma=gamma, student_layer=8, teacher_layer=25)
    role = replace(work.roles[0], objective=objective, batch=64)
    work = replace(work, network=replace(work.network, backbone=config), roles=(role,))
    seen = {"sit": (25,), "flux": (20, 5)}[backbone] if gamma else ()

    class Clock:
        def __init__(self, small, small_role, mode):
            self.terms = measure._terms(small, small_role)
            built.append(small.network.backbone.depth)

        def times(self, samples):
            cost = sum(x * y for x, y in zip(self.terms, costs, strict=False))
            return measure.StepTimes(samples * cost / 8, 0.1 * cost, 0.0)

    monkeypatch.setattr(measure, "_Step", Clock)
    found = measure.measure_step(work, role)
    cost = sum(x * y for x, y in zip((1, *blocks, *seen), costs, strict=False))
    assert found.batch == pytest.approx(64 * cost / 8)
    assert found.update == pytest.approx(0.1 * cost)
    assert max(built) <= 4


@pytest.mark.parametrize("mode", ["none", "full"])
def test_a_processor_is_timed_with_an_early_auxiliary_head(work, mode):
    role = replace(work.roles[0], objective=ObjectiveConfig(gamma=0.0, auxiliary=0.5))
    early = replace(work, network=replace(work.network, auxiliary_layer=3), roles=(role,))
    found = measure.measure_step(early, role, mode)
    assert found.batch > 0 < found.update
