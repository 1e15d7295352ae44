"""From windows to tokens: what a network is told about actions, and what it must predict."""

import numpy as np
import pytest
import torch

from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.windows import WindowReader
from selfflow_robotics.data.samples import window_batch
from selfflow_robotics.inference.imagine import imagine
from selfflow_robotics.modalities.actions import Actions
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.robot.normalize import NormStats
from tests.networks import robot_bundle, robot_codecs, robot_network
from tests.rlds_sets import make_set

CPU = torch.device("cpu")
SIZE = (16, 32)
# A robot that hardly moves, beside data that do: half of the actions below lie outside.
STATS = NormStats.compute(np.linspace(-0.05, 0.05, 70).reshape(10, 7))
STILL = Actions(STATS)
MODEL = RobotConfig(SiTConfig(32, 2, 2), SIZE, later_frames=2, action_horizon=3)


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    index = RldsIndex.open(make_set(tmp_path_factory.mktemp("sets"), [9, 8]))
    reader = WindowReader(index, horizon=3, future_frames=2, image_size=SIZE)
    return reader.read(np.arange(len(reader)))


def tokens(windows, role):
    batch = window_batch(windows, robot_codecs(MODEL, STATS), ROLES[role], CPU)
    return batch.slots["actions"].tokens


def test_a_world_model_is_told_what_was_done(windows):
    told = tokens(windows, "world_model")
    assert told[..., :6].abs().max() > 1
    torch.testing.assert_close(STILL.decode(told), torch.from_numpy(windows.actions))


@pytest.mark.parametrize("role", ["policy", "joint", "inverse_dynamics"])
def test_what_is_to_be_predicted_stays_in_the_range(windows, role):
    target = tokens(windows, role)
    assert target[..., :6].abs().max() == 1
    exact = tokens(windows, "world_model")
    assert torch.equal(target[..., :6], exact[..., :6].clamp(-1, 1))
    assert torch.equal(target[..., 6], exact[..., 6])


def test_imagining_tells_actions_beyond_the_range_apart(monkeypatch):
    model = Network(robot_network(MODEL))
    bundle = robot_bundle(MODEL, model, ["world_model"], STATS)
    seen = []
    encode = model.encode_context
    monkeypatch.setattr(
        model,
        "encode_context",
        lambda clean, *rest, **kw: seen.append(clean) or encode(clean, *rest, **kw),
    )
    frames = np.zeros((2, *SIZE, 3), np.uint8)
    actions = np.full((2, 2, 7), 0.5, np.float32)
    actions[1] *= 2
    imagine(bundle, frames, actions, ["", ""], num_steps=1)
    told = STILL.decode(seen[0]["actions"].tokens)
    np.testing.assert_allclose(told.numpy(), actions, rtol=1e-5)
