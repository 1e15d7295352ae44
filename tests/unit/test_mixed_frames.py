"""Frames that are denoised as latents while clean ones are read from their pixels too."""

from pathlib import Path

import numpy as np
import pytest
import torch

from selfflow_robotics.autoencoders.load import AutoencoderConfig, load_autoencoder
from selfflow_robotics.autoencoders.small import TABLETOP
from selfflow_robotics.data.rlds.windows import WindowBatch
from selfflow_robotics.data.samples import window_batch
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.imagine import imagine
from selfflow_robotics.modalities.base import FRAMES, first_frame
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.roles import ROBOT_ROLES, ROLES
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.robot.normalize import NormStats
from tests.networks import robot_bundle, robot_codecs, robot_network, waken

CPU = torch.device("cpu")
MIXED = RobotConfig(SiTConfig(32, 2, 2), (16, 32), later_frames=2, action_horizon=3, frames="mixed")
STATS = NormStats.compute(np.linspace(-0.05, 0.05, 70).reshape(10, 7))


def windows(count: int = 3) -> WindowBatch:
    rng = np.random.Generator(np.random.PCG64(0))
    return WindowBatch(
        frames=rng.integers(0, 256, (count, 3, 16, 32, 3), np.uint8),
        frames_valid=np.ones((count, 3), bool),
        actions=rng.normal(scale=0.02, size=(count, 3, 7)).astype(np.float32),
        action_valid=np.ones((count, 3), bool),
        proprio=np.zeros((count, 8), np.float32),
        instruction=["pick coke can"] * count,
        episode=np.zeros(count, np.int64),
        step=np.arange(count),
    )


def network() -> Network:
    torch.manual_seed(0)
    return Network(robot_network(MIXED))


def test_the_package_has_an_autoencoder_of_the_tabletops_camera():
    autoencoder = load_autoencoder(AutoencoderConfig("small"))
    assert autoencoder.told["psnr"] > 30
    assert TABLETOP.stat().st_size < 2**20
    frames = torch.full((1, 16, 32, 3), 120, dtype=torch.uint8)
    assert autoencoder.decode(autoencoder.encode(frames)[0]).shape == frames.shape


@pytest.mark.parametrize("role", list(ROBOT_ROLES))
def test_every_row_has_a_loss_and_moves_its_stems(role):
    model = waken(network())
    batch = window_batch(windows(), robot_codecs(MIXED, STATS), ROLES[role], CPU)
    conditioning = ConditioningConfig(draws=2, frame_noise=0.1)
    generator = torch_generator("test", 0)
    terms = loss(
        model, model, batch, ROLES[role], ObjectiveConfig(gamma=0), conditioning, generator
    )
    terms.loss.backward()
    frames = model.adapters[FRAMES]
    moved = {
        name
        for name, p in frames.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 0
    }
    parts = {name.partition(".")[0] for name in moved}
    assert "stem" in parts
    assert ("view_stem" in parts) == (
        "clean" in {ROLES[role].get(s) for s in ROLES[role]}
        and (ROLES[role].get("first_frame") == "clean")
    )


def test_pixels_behind_equal_latents_make_a_difference():
    model = waken(network())
    codec = MIXED.codec()
    slot = first_frame(codec, torch.from_numpy(windows().frames[:, 0]))
    assert slot.view is not None
    adapter = model.adapter("first_frame")
    other = type(slot)(slot.tokens, slot.places, None, slot.view.flip(0))
    assert not torch.equal(adapter.embed(slot, True), adapter.embed(other, True))
    assert torch.equal(adapter.embed(slot, False), adapter.embed(other, False))


def test_a_clean_frame_without_its_pixels_is_refused():
    slot = first_frame(MIXED.codec(), torch.from_numpy(windows().frames[:, 0]))
    blind = type(slot)(slot.tokens, slot.places)
    with pytest.raises(UserError, match="pixels"):
        network().encode_context({"first_frame": blind}, ["pick coke can"] * 3)


def test_a_new_world_model_copies_the_first_frame():
    bundle = robot_bundle(MIXED, network(), ["world_model"], STATS)
    frames = windows().frames[:, 0]
    actions = np.zeros((3, 2, 7), np.float32)
    later = imagine(bundle, frames, actions, ["pick coke can"] * 3, num_steps=3)
    codec = MIXED.codec()
    seen = torch.from_numpy(frames)[:, None]
    copy = codec.decode(codec.encode(seen)).numpy()
    assert np.abs(later.astype(int) - copy.astype(int)).max() <= 1


def test_an_autoencoder_of_clips_has_no_pixels_to_mix():
    with pytest.raises(UserError, match="wan"):
        RobotConfig(frames="mixed", autoencoder=AutoencoderConfig("wan"))
    with pytest.raises(UserError, match="nowhere"):
        RobotConfig(
            frames="mixed", autoencoder=AutoencoderConfig("small", str(Path("nowhere")))
        ).codec()
