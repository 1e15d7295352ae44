"""From windows to tokens: what a network is told about actions, and what it must predict."""

import numpy as np
import pytest
import torch

from selfflow_robotics.autoencoders.pixel import PixelAutoencoder
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.windows import WindowReader
from selfflow_robotics.data.samples import window_sample
from selfflow_robotics.models.multimodal import MultimodalConfig, MultimodalSiT
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.robot.normalize import ActionNormalizer, NormStats
from selfflow_robotics.world.imagine import imagine
from selfflow_robotics.world.network import Network
from tests.rlds_sets import make_set

CPU = torch.device("cpu")
SIZE = (16, 32)
# A robot that hardly moves, beside data that do: half of the actions below lie outside.
STILL = ActionNormalizer(NormStats.compute(np.linspace(-0.05, 0.05, 70).reshape(10, 7)))


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    index = RldsIndex.open(make_set(tmp_path_factory.mktemp("sets"), [9, 8]))
    reader = WindowReader(index, horizon=3, future_frames=2, image_size=SIZE)
    return reader.read(np.arange(len(reader)))


def tokens(windows, role):
    sample = window_sample(windows, PixelAutoencoder(SIZE, 16), STILL, ROLES[role], CPU)
    return sample.tokens["actions"]


def test_a_world_model_is_told_what_was_done(windows):
    told = tokens(windows, "world_model")
    assert told[..., :6].abs().max() > 1
    torch.testing.assert_close(STILL.unnormalize(told), torch.from_numpy(windows.actions))


@pytest.mark.parametrize("role", ["policy", "joint", "inverse_dynamics"])
def test_what_is_to_be_predicted_stays_in_the_range(windows, role):
    target = tokens(windows, role)
    assert target[..., :6].abs().max() == 1
    exact = tokens(windows, "world_model")
    assert torch.equal(target[..., :6], exact[..., :6].clamp(-1, 1))
    assert torch.equal(target[..., 6], exact[..., 6])


def test_imagining_tells_actions_beyond_the_range_apart(tmp_path, monkeypatch):
    model = MultimodalSiT(
        MultimodalConfig(SiTConfig(32, 2, 2), SIZE, later_frames=2, action_horizon=3)
    )
    network = Network(model, STILL, {}, ("world_model",), tmp_path, CPU)
    seen = []
    encode = model.encode_context
    monkeypatch.setattr(
        model, "encode_context", lambda clean, *rest: seen.append(clean) or encode(clean, *rest)
    )
    frames = np.zeros((2, *SIZE, 3), np.uint8)
    actions = np.full((2, 2, 7), 0.5, np.float32)
    actions[1] *= 2
    imagine(network, frames, actions, ["", ""], num_steps=1)
    told = STILL.unnormalize(seen[0]["actions"])
    np.testing.assert_allclose(told.numpy(), actions, rtol=1e-5)
