"""attention=causal: no token sees a later frame, or the actions after it."""

import pytest
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.sample import sample
from selfflow_robotics.models import layers
from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.timesteps import Timesteps
from tests.networks import as_slots, robot_network, waken

PER_FRAME, FRAMES = 4, 3


def robot(**changes):
    torch.manual_seed(0)
    model = RobotConfig(SiTConfig(32, 3, 2), (32, 32), later_frames=FRAMES, **changes)
    return waken(Network(robot_network(model)), std=0.3)


def randn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def denoised(network, changed_action=None, changed_frame=None, attention="causal", **settings):
    """Outputs [2, frames, ...] of the world model after a change of one of its inputs."""
    actions = randn(2, 1, 6, 7)
    noised = randn(3, 2, FRAMES * PER_FRAME, 768)  # two draws
    if changed_action is not None:
        actions[:, changed_action] += 1
    if changed_frame is not None:
        noised[:, PER_FRAME * changed_frame] += 1
    tokens = {"first_frame": randn(1, 1, PER_FRAME, 768), "actions": actions}
    context = network.encode_context(as_slots(network, tokens), ["pick"], attention=attention)
    slots = as_slots(network, {"later_frames": noised})
    timesteps = Timesteps.constant(0.5, noised)
    with torch.no_grad():
        outputs, _ = network(slots, timesteps, context, **settings)
    return outputs["later_frames"].unflatten(1, (FRAMES, PER_FRAME))


def moved(network, **change):
    """Which later frames the change of an input moves."""
    rest = {k: v for k, v in change.items() if not k.startswith("changed")}
    away = denoised(network, **change) - denoised(network, **rest)
    return (away.abs().amax(dim=(0, 2, 3)) > 1e-6).tolist()


@pytest.mark.parametrize("short", [True, False])  # explicit products, and torch's fused attention
def test_frames_see_earlier_frames_and_actions_only(monkeypatch, short):
    monkeypatch.setattr(layers, "SHORT", 256 if short else 0)
    network = robot()
    assert moved(network, changed_frame=1) == [False, True, True]
    assert moved(network, changed_frame=0) == [True, True, True]
    assert moved(network, changed_action=0) == [True, True, True]
    assert moved(network, changed_action=2) == [False, False, True]
    assert moved(network, changed_action=3) == [False, False, False]
    assert moved(network, changed_frame=2, attention="prefix") == [True, True, True]
    assert moved(network, changed_action=2, attention="prefix") == [True, True, True]


def test_with_a_stride_a_frame_follows_several_actions():
    network = robot(frame_stride=2)
    assert moved(network, changed_action=1) == [True, True, True]
    assert moved(network, changed_action=2) == [False, True, True]
    assert moved(network, changed_action=5) == [False, False, True]


def test_both_masks_hold_together():
    network = robot()
    noised = randn(3, 1, FRAMES * PER_FRAME, 768)
    context = network.encode_context({}, ["pick"], attention="causal")
    index = torch.tensor([[0, 1, 0, 1] * FRAMES])
    timesteps = Timesteps(torch.tensor([[0.3, 0.7]]), index)

    def outputs(tokens):
        slots = as_slots(network, {"later_frames": tokens})
        out, _ = network(slots, timesteps, context, separate_attention=True)
        return out["later_frames"]

    other = noised.clone()
    other[:, PER_FRAME] += 1  # the first token of the second frame, of the first group
    away = (outputs(noised) - outputs(other)).abs().amax(dim=-1)[0].unflatten(0, (FRAMES, -1))
    group = [True, False, True, False]
    assert (away > 1e-6).tolist() == [[False] * PER_FRAME, group, group]


def test_fewer_frames_are_the_first_of_more():
    """So a world model may imagine frame by frame, or all at once."""
    network = robot()
    tokens = {"first_frame": randn(1, 1, PER_FRAME, 768), "actions": randn(2, 1, 6, 7)}
    clean = as_slots(network, tokens)
    noise = randn(3, 1, FRAMES * PER_FRAME, 768)

    def imagined(frames):
        slots = as_slots(network, {"later_frames": noise[:, : frames * PER_FRAME]})
        how = {"num_steps": 3, "words": ["pick"], "attention": "causal"}
        return sample(network, slots, clean=clean, **how)["later_frames"]

    torch.testing.assert_close(imagined(2), imagined(3)[:, : 2 * PER_FRAME])


def test_flux_has_no_causal_attention():
    flux = FluxConfig(48, double=1, single=1, heads=2)
    model = RobotConfig(flux=flux, backbone="flux", image_size=(32, 32))
    with pytest.raises(UserError, match="causal"):
        Network(robot_network(model)).encode_context({}, ["pick"], attention="causal")
