"""The plain code of the speed benchmark computes what the library computes, for more FLOPs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import flops
from benchmarks.plain import PlainNetwork, plain_ema
from benchmarks.speed import SIZES, layers_of, quick
from benchmarks.speed_sides import Setup, check_equal
from selfflow_robotics.models.presets import image_config
from selfflow_robotics.timesteps import Timesteps
from selfflow_robotics.training.compile import compile_blocks, missing_compiler
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers
from selfflow_robotics.training.teacher import update_teacher

CPU = torch.device("cpu")


@pytest.fixture(params=["sit", "flux"])
def setup(request):
    return Setup(quick(request.param), (1, 2), CPU)


def test_both_sides_agree(setup):
    differences = check_equal(setup, size=2, steps=3)
    assert max(v for name, v in differences.items() if "bf16" not in name) < 1e-5


def test_both_sides_take_the_same_steps(setup):
    model, teacher = copy.deepcopy(setup.model), copy.deepcopy(setup.teacher)
    plain, plain_teacher = PlainNetwork(model), PlainNetwork(teacher)
    settings = OptimizerConfig(lr=1e-3, weight_decay=0.01, muon=False)
    (fast,) = build_optimizers(setup.model, settings)
    slow = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=settings.betas, weight_decay=settings.weight_decay
    )
    for _ in range(3):
        ours = setup.loss(setup.model, setup.teacher, 2, "fp32")
        theirs = setup.plain_loss(plain, plain_teacher, 2, "fp32")
        torch.testing.assert_close(ours, theirs)
        for loss, network, optimizer in ((ours, setup.model, fast), (theirs, plain, slow)):
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        update_teacher(setup.teacher, setup.model, 0.9)
        plain_ema(plain_teacher, plain, 0.9)
    for pair in ((setup.model, model), (setup.teacher, teacher)):
        for ours, theirs in zip(*(network.parameters() for network in pair), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("plain", [False, True])
def test_flops_on_paper_are_those_that_torch_counts(setup, plain):
    counter = FlopCounterMode(display=False)
    # The fused attention of CPUs is not counted; the plain products are.
    with counter, sdpa_kernel(SDPBackend.MATH):
        if plain:
            setup.plain_loss(setup.plain, setup.plain_teacher, 1, "fp32").backward()
        else:
            setup.loss(setup.model, setup.teacher, 1, "fp32").backward()
    assert counter.get_total_flops() == pytest.approx(flops(setup.config, 2, plain).step, rel=1e-3)


@pytest.mark.parametrize(
    ("backbone", "size", "most", "share"),
    [("sit", "XL", 895e9, 0.65), ("flux", "625M", 885e9, 0.9)],
)
def test_a_step_of_the_papers_size_costs_less(backbone, size, most, share):
    config = image_config(SIZES[backbone][size])
    student_layer, teacher_layer = layers_of(config)
    ours, plain = (flops(config, teacher_layer, plain).step for plain in (False, True))
    assert ours <= most
    assert ours <= share * plain
    with torch.device("meta"):  # shapes alone, so that torch can count the real thing
        setup = Setup(config, (student_layer, teacher_layer), torch.device("meta"))
        tokens, labels = torch.zeros(1, 256, 16), torch.zeros(1, dtype=torch.long)
        t = Timesteps(torch.zeros(1, 2), torch.zeros(1, 256, dtype=torch.long))
    model, teacher = setup.model, setup.teacher
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        slots, context = setup.slots(tokens), model.encode_context({}, labels=labels)
        outputs, features = model(slots, t, context, (student_layer,))
        with torch.no_grad():
            seen = teacher.encode_context({}, labels=labels)
            one = Timesteps(t.values[:, :1], t.index)
            teacher(slots, one, seen, (teacher_layer,), stop=True)
        velocity = outputs["first_frame"].sum()
        (velocity + model.projector(features[student_layer]).sum()).backward()
    assert counter.get_total_flops() == pytest.approx(ours, rel=1e-3)


@pytest.mark.slow
def test_compiled_blocks_compute_the_same(setup):
    if missing := missing_compiler():
        pytest.skip(f"torch cannot compile here without {missing}")
    expected = setup.loss(setup.model, setup.teacher, 2, "fp32")
    compile_blocks(setup.model)
    compile_blocks(setup.teacher)
    compiled = setup.loss(setup.model, setup.teacher, 2, "fp32")
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4)
    compiled.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in setup.model.parameters())
