"""The sampler: images of given classes, guidance, and modulation made ahead."""

import copy
from dataclasses import replace

import pytest
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.inference import velocity
from selfflow_robotics.inference.sample import SeededNormal, sample
from selfflow_robotics.inference.velocity import ModulationAhead
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RELEASED_TIME, RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.timesteps import Timesteps
from tests.networks import as_slots, ask_image, frames_slot, robot_network

SIT = SiTConfig(width=48, depth=2, heads=3)
CONFIG = image_config(replace(SIT, **RELEASED_TIME), latent_size=8, num_classes=10)
LABELS = torch.tensor([3, 7, 0, 9])
SEEDS = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Network(CONFIG)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model


def sample_images(model, labels, normal, method="sde", **settings):
    """Tokens [B, 16, 16] of the classes."""
    start = {"first_frame": frames_slot(model, normal(torch.Size([len(labels), 16, 16])))}
    settings = {"num_steps": 12, **settings}
    tokens = sample(model, start, labels=labels, method=method, normal=normal, **settings)
    return tokens["first_frame"]


@pytest.mark.parametrize("method", ["sde", "euler", "heun", "midpoint", "multistep"])
def test_a_sample_depends_on_its_own_label_and_seed_alone(model, method):
    settings = {"method": method, "num_steps": 4, "guidance_scale": 2.0}
    together = sample_images(model, LABELS, SeededNormal(SEEDS), **settings)
    assert together.shape == (4, 16, 16)
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


def test_outside_the_guidance_interval_the_network_runs_once_a_step(model, monkeypatch):
    asked, encode = [], model.encode_context
    # The network runs in the context of the classes (True) or of none (False).
    contexts = {}

    def encode_context(*args, labels=None, **settings):
        context = encode(*args, labels=labels, **settings)
        contexts[id(context)] = labels is not None
        return context

    monkeypatch.setattr(model, "encode_context", encode_context)
    hook = model.register_forward_hook(
        lambda _module, args, _out: asked.append(contexts[id(args[2])])
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
    assert asked == [True, True, True, False, True, False, True, False]


@pytest.mark.parametrize("rows", [1, 8, 1000])  # one time at once, two of the five, all
def test_modulation_made_ahead_changes_no_sample(model, monkeypatch, rows):
    settings = {"method": "heun", "num_steps": 5, "guidance_scale": 2.0, "shift": 2.0}
    expected = sample_images(model, LABELS, SeededNormal(SEEDS), **settings)
    monkeypatch.setattr(velocity, "ROWS", rows)
    asked = []
    linear = model.backbone.blocks[0].adaLN_modulation
    hook = linear.register_forward_hook(lambda _module, args, _out: asked.append(args[0].shape[1]))
    ahead = sample_images(model, LABELS, SeededNormal(SEEDS), **settings)
    hook.remove()
    torch.testing.assert_close(ahead, expected, rtol=1e-5, atol=1e-5)
    # Of classes five times, two at once leave one for the last product. Without, all have one row.
    assert sorted(asked) == sorted({1: 10 * [1], 8: 2 * [2] + [1, 5], 1000: 2 * [5]}[rows])


def test_rows_of_the_table_are_those_that_the_network_makes(model):
    t, x = 0.37, torch.randn(4, 16, 16)
    timesteps, context = Timesteps.constant(t, x), model.encode_context({}, labels=LABELS)
    ahead = ModulationAhead(model, context, [1.0, t, 0.0], ["first_frame"])
    table = ahead.at(t)
    for layers, without in (((), {}), ((2,), {"stop": True})):
        ours = ask_image(model, x, timesteps, LABELS, layers, **without, table=table)
        plain = ask_image(model, x, timesteps, LABELS, layers, **without)
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_a_robot_network_is_sampled_by_the_same_function(attention):
    """Two slots at once, words, guidance and the stochastic equation."""
    torch.manual_seed(0)
    robot = Network(robot_network(RobotConfig(SIT, image_size=(32, 32), later_frames=2)))
    for p in robot.parameters():
        torch.nn.init.normal_(p, std=0.1)
    clean = as_slots(robot, {"first_frame": torch.randn(2, 4, 768)})
    noise = {"later_frames": torch.randn(2, 8, 768), "actions": torch.randn(2, 6, 7)}
    for method in ("multistep", "sde"):
        tokens = sample(
            robot, as_slots(robot, noise), clean=clean, words=["a", "b"], method=method,
            num_steps=3, guidance_scale=2.0, attention=attention,
            normal=lambda shape: torch.zeros(shape),
        )  # fmt: skip
        assert {name: x.shape for name, x in tokens.items()} == {
            "later_frames": (2, 8, 768),
            "actions": (2, 6, 7),
        }
        assert all(x.isfinite().all() for x in tokens.values())


def test_an_unknown_method_is_refused(model):
    with pytest.raises(UserError, match="unknown sampling method 'ddim'"):
        sample_images(model, LABELS, SeededNormal(SEEDS), method="ddim")


def test_a_network_in_bfloat16_makes_nearly_the_same_samples(model):
    exact = sample_images(model, LABELS, SeededNormal(SEEDS), method="euler", num_steps=4)
    half = copy.deepcopy(model).bfloat16()
    coarse = sample_images(half, LABELS, SeededNormal(SEEDS), method="euler", num_steps=4)
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, exact, rtol=0.05, atol=0.05 * exact.abs().max().item())
