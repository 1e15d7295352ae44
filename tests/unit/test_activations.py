"""Activation checkpointing of a block that runs twice in a step: for a context and for tokens."""

import pytest
import torch

from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.timesteps import Timesteps
from selfflow_robotics.training.activations import checkpoint_activations
from selfflow_robotics.training.device import autocast
from tests.networks import as_slots, robot_network, waken


def gradients(mode, precision):
    torch.manual_seed(0)
    network = waken(Network(robot_network(RobotConfig(image_size=(32, 48)))))
    checkpoint_activations(network, mode)
    generator = torch_generator("test")
    frame, actions = (torch.randn(*n, generator=generator) for n in ((2, 6, 768), (2, 6, 7)))
    slots = as_slots(network, {"first_frame": frame, "actions": actions})
    with autocast(torch.device("cpu"), precision, recomputing=True):
        context = network.encode_context({"first_frame": slots["first_frame"]}, ["pick", "place"])
        times = Timesteps.constant(0.4, actions)
        outputs, _ = network({"actions": slots["actions"]}, times, context)
        loss = outputs["actions"].float().square().mean()
    loss.backward()
    return [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputing_changes_no_gradient(precision):
    expected = gradients("none", precision)
    for mode in ("selective", "full"):
        found = gradients(mode, precision)
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
