"""Sampling pictures of given classes."""

import copy

import pytest
import torch
from selfflow_robotics.models.image_sit import ImageSiT, ImageSiTConfig
from selfflow_robotics.world import generate
from selfflow_robotics.world.generate import ModulationTable, SeededNormal, sample_images

from selfflow_robotics.errors import UserError
from selfflow_robotics.models.sit import SiTConfig, constant_timestep

CONFIG = ImageSiTConfig(SiTConfig(width=48, depth=2, heads=3), latent_size=8, num_classes=10)
LABELS = torch.tensor([3, 7, 0, 9])
SEEDS = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = ImageSiT(CONFIG)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model


@pytest.mark.parametrize("method", ["sde", "euler", "heun", "multistep"])
def test_a_sample_depends_on_its_own_label_and_seed_alone(model, method):
    settings = {"method": method, "num_steps": 4, "guidance_scale": 2.0}
    together = sample_images(model, LABELS, SeededNormal(SEEDS), **settings)
    assert together.shape == (4, 4, 8, 8)
    assert together.isfinite().all()
    for part in (slice(0, 1), slice(1, 4)):
        alone = sample_images(model, LABELS[part], SeededNormal(SEEDS[part]), **settings)
        torch.testing.assert_close(alone, together[part], rtol=1e-4, atol=1e-4)
    other = sample_images(model, LABELS, SeededNormal([0, *SEEDS[1:]]), **settings)
    assert not torch.allclose(other[0], together[0])


def test_seeded_draws_do_not_depend_on_the_batch_and_never_repeat():
    shape = torch.Size([3, 16, 16])
    together = SeededNormal([1, 2, 3])
    draws = [together(shape), together(shape)]
    alone = SeededNormal([2])
    assert torch.equal(draws[0][1], alone(torch.Size([1, 16, 16]))[0])
    assert torch.equal(draws[1][1], alone(torch.Size([1, 16, 16]))[0])
    assert not torch.equal(draws[0], draws[1])
    assert abs(torch.cat(draws).std().item() - 1) < 0.05


def test_solvers_of_the_same_flow_agree(model):
    fine = sample_images(model, LABELS, SeededNormal(SEEDS), method="heun", num_steps=100)
    for method, num_steps in (("heun", 40), ("multistep", 40), ("euler", 400)):
        same = sample_images(
            model, LABELS, SeededNormal(SEEDS), method=method, num_steps=num_steps, shift=2.0
        )
        torch.testing.assert_close(same, fine, rtol=0.02, atol=0.02)


def test_outside_the_guidance_interval_the_network_runs_once_a_step(model):
    asked = []
    hook = model.register_forward_hook(
        lambda _module, args, _out: asked.append(bool((args[2] == CONFIG.null_label).all()))
    )
    # Of the times 1, 0.8, 0.6, 0.4, 0.2 the last three are inside.
    sample_images(
        model,
        LABELS,
        SeededNormal(SEEDS),
        method="euler",
        num_steps=5,
        guidance_scale=2.0,
        guidance_interval=(0.0, 0.7),
    )
    hook.remove()
    assert asked.count(False) == 5
    assert asked == [False, False, False, True, False, True, False, True]


@pytest.mark.parametrize("rows", [1, 8, 1000])  # one time at once, two of the five, all
def test_modulation_made_ahead_changes_no_sample(model, monkeypatch, rows):
    settings = {"method": "heun", "num_steps": 5, "guidance_scale": 2.0, "shift": 2.0}
    expected = sample_images(model, LABELS, SeededNormal(SEEDS), **settings)
    monkeypatch.setattr(generate, "ROWS", rows)
    asked = []
    linear = model.sit.blocks[0].adaLN_modulation
    hook = linear.register_forward_hook(lambda _module, args, _out: asked.append(args[0].shape[1]))
    ahead = sample_images(model, LABELS, SeededNormal(SEEDS), **settings)
    hook.remove()
    torch.testing.assert_close(ahead, expected, rtol=1e-5, atol=1e-5)
    # Conditional and not, five times each; two at once leave one for the last product.
    assert asked == {1: 10 * [1], 8: 4 * [2] + 2 * [1], 1000: 2 * [5]}[rows]


def test_rows_of_the_table_are_those_that_the_network_makes(model):
    t = 0.37
    x = torch.randn(4, CONFIG.grid**2, CONFIG.token_channels)
    timesteps = constant_timestep(t, x)
    table = ModulationTable(model, LABELS, torch.tensor([1.0, t, 0.0]))
    for layers, without in (((), {}), ((2,), {"features_only": True})):
        ours = model(x, timesteps, LABELS, layers, **without, table=table.at(table._numbers[1]))
        plain = model(x, timesteps, LABELS, layers, **without)
        torch.testing.assert_close(ours, plain)


def test_an_unknown_method_is_refused(model):
    with pytest.raises(UserError, match="unknown sampling method 'ddim'"):
        sample_images(model, LABELS, SeededNormal(SEEDS), method="ddim")


def test_a_network_in_bfloat16_makes_nearly_the_same_samples(model):
    exact = sample_images(model, LABELS, SeededNormal(SEEDS), method="euler", num_steps=4)
    half = copy.deepcopy(model).bfloat16()
    coarse = sample_images(half, LABELS, SeededNormal(SEEDS), method="euler", num_steps=4)
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, exact, rtol=0.05, atol=0.05 * exact.abs().max().item())
