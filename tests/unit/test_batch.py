"""Slots, batches and questions that do not fit the network or one another are one clear line."""

from dataclasses import replace

import pytest
import torch

from selfflow_robotics.batch import Batch, Slot, step_places
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.sample import sample
from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from tests.networks import as_slots, robot_network

VANILLA = ObjectiveConfig(gamma=0, mask_ratio=0)


@pytest.fixture(scope="module", params=["sit", "flux"])
def network(request):
    config = RobotConfig(
        SiTConfig(16, 1, 2), (16, 32), backbone=request.param, flux=FluxConfig(16, 1, 1, 2)
    )
    return Network(robot_network(config))


@pytest.fixture
def slots(network):
    tokens = {"first_frame": (2, 768), "later_frames": (12, 768), "actions": (6, 7)}
    return as_slots(network, {name: torch.randn(2, *shape) for name, shape in tokens.items()})


def ask(network, batch, role="joint", **how):
    role = ROLES.get(role, role)
    generator = torch.Generator().manual_seed(0)
    return loss(network, network, batch, role, VANILLA, ConditioningConfig(), generator, **how)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": torch.zeros(2, 7)},
        {"places": torch.zeros(6, 3)},
        {"places": step_places(1)},
        {"places": step_places(6)[:, :2]},
        {"valid": torch.ones(2, 6)},
        {"valid": torch.ones(2, 5, dtype=torch.bool)},
        {"view": torch.zeros(2, 5, 3)},
    ],
)
def test_a_slot_has_the_shapes_and_types_that_it_says(change):
    with pytest.raises(UserError, match=next(iter(change))):
        replace(Slot(torch.zeros(2, 6, 7), step_places(6)), **change)


def test_a_batch_has_as_many_of_everything(slots):
    few = {**slots, "actions": Slot(torch.zeros(1, 6, 7), step_places(6))}
    for wrong in ((few, None, None), (slots, ["a"], None), (slots, None, torch.zeros(3))):
        with pytest.raises(UserError, match="samples"):
            Batch(*wrong)


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("actions", Slot(torch.zeros(2, 6, 5), step_places(6))),
        ("first_frame", Slot(torch.zeros(2, 2, 12), step_places(2, -1))),
        ("actions", Slot(torch.zeros(2, 9, 7), step_places(9))),
        ("actions", Slot(torch.zeros(2, 6, 7), step_places(6, -1))),
    ],
)
def test_tokens_that_the_network_was_not_made_for_are_named(network, slots, name, slot):
    with pytest.raises(UserError, match=name):
        ask(network, Batch({**slots, name: slot}, ["a", "b"]))
    with pytest.raises(UserError, match="wheels"):
        network.encode_context({"wheels": slot})


@pytest.mark.parametrize("role", [{"wheels": "noised"}, {"first_frame": "clean"}])
def test_roles_that_a_batch_cannot_play_are_refused(network, slots, role):
    with pytest.raises(UserError):
        loss(network, network, Batch(slots), role, VANILLA, ConditioningConfig(), torch.Generator())


def test_a_slot_that_the_batch_lacks_is_named(network, slots):
    del slots["later_frames"]
    with pytest.raises(UserError, match="later_frames"):
        ask(network, Batch(slots))


@pytest.mark.parametrize("role", ["video", "inverse_dynamics"])  # denoised, and clean
def test_tokens_that_do_not_count_may_be_anything(network, slots, role):
    """NaN and infinity there reach neither the loss nor a gradient."""
    tokens = slots["later_frames"].tokens.clone()
    tokens[:, -2], tokens[:, -1] = torch.nan, torch.inf
    valid = torch.arange(12).expand(2, 12) < 10
    slots["later_frames"] = replace(slots["later_frames"], tokens=tokens, valid=valid)
    network.zero_grad()
    terms = ask(network, Batch(slots, ["a", "b"]), role)
    terms.loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(x.isfinite().all() for x in [terms.loss, *gradients])


@pytest.mark.parametrize("weights", [(0, 0), (-1, 2), (float("nan"), 1), (float("inf"), 1)])
def test_loss_weights_without_a_meaning_are_refused(network, slots, weights):
    named = dict(zip(("later_frames", "actions"), weights, strict=True))
    with pytest.raises(UserError, match="loss weights of later_frames, actions"):
        ask(network, Batch(slots), weights=named)


def test_an_unknown_attention_is_not_taken_for_prefix(network, slots):
    with pytest.raises(UserError, match="both"):
        ConditioningConfig(attention="both")
    with pytest.raises(UserError, match="both"):
        network.encode_context({"first_frame": slots["first_frame"]}, attention="both")


def test_questions_to_the_sampler_that_do_not_fit_are_refused(network, slots):
    noise, clean = {"actions": slots["actions"]}, {"first_frame": slots["first_frame"]}
    for wrong in (
        {"noise": {}},
        {"noise": noise, "clean": clean, "words": ["a"]},
        {"noise": noise, "clean": clean, "method": "sde"},
    ):
        with pytest.raises(UserError):
            sample(network, num_steps=2, **wrong)
