"""Pictures by number out of both kinds of network: `inference.generate`."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.generate import NumberedPictures, Sampling
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from tests.networks import image_bundle, pixel_latents, robot_bundle, robot_network

SIT = SiTConfig(width=48, depth=2, heads=3)
QUICK = Sampling(num_steps=3)
EULER = Sampling("euler", num_steps=3)


def filled(model):
    torch.manual_seed(0)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def classes():
    model = filled(Network(image_config(SIT, 8, channels=3, patch=4, num_classes=5)))
    return image_bundle(model, patch=4)


def scenes(roles=("clip", "image")):
    config = RobotConfig(SIT, image_size=(32, 48), patch=16)
    return robot_bundle(config, filled(Network(robot_network(config))), roles)


def assert_numbered(maker, height, width):
    """Pictures are the same wherever they stand in a batch of the same size, and all differ."""
    pictures = maker(range(4))
    assert pictures.shape == (4, height, width, 3)
    assert pictures.dtype == np.uint8
    assert len({picture.tobytes() for picture in pictures}) == 4
    moved = maker([2, 9, 1, 0])
    assert (moved[[3, 2, 0]] == pictures[:3]).all()


@pytest.mark.parametrize("how", [QUICK, Sampling("heun", 2, guidance_scale=2.0, shift=2.0)])
def test_a_picture_of_a_class_is_a_function_of_its_number(classes, how):
    maker = NumberedPictures(classes, how, seed=3)
    assert maker.size == (8, 8)
    assert_numbered(maker, 8, 8)
    other = NumberedPictures(classes, how, seed=4)
    assert (other(range(4)) != maker(range(4))).any()


def test_classes_are_drawn_at_random_or_take_turns(classes):
    maker = NumberedPictures(classes, QUICK, seed=0)
    drawn = [maker.label(number) for number in range(1000)]
    counts = np.bincount(drawn, minlength=5)
    assert len(counts) == 5
    assert (abs(counts - 200) < 60).all()
    assert (counts != 200).any()
    turns = NumberedPictures(classes, QUICK, seed=0, labels=[4, 1])
    assert [turns.label(number) for number in range(5)] == [4, 1, 4, 1, 4]
    for labels in ([5], [-1], []):
        with pytest.raises(UserError, match="labels must be numbers from 0 to 4"):
            NumberedPictures(classes, QUICK, 0, labels)


def test_only_classes_that_training_had_are_drawn(classes):
    gaps = replace(classes, labels=[1, 4])
    maker = NumberedPictures(gaps, QUICK, seed=0)
    assert {maker.label(number) for number in range(100)} == {1, 4}
    assert NumberedPictures(gaps, QUICK, 0, [4, 1]).label(0) == 4
    with pytest.raises(UserError, match="without images of class 2"):
        NumberedPictures(gaps, QUICK, 0, [1, 2])
    whole = replace(classes, labels=[0, 1, 2, 3, 4])
    drawn, all_drawn = (
        [NumberedPictures(bundle, QUICK, 0).label(n) for n in range(20)]
        for bundle in (classes, whole)
    )
    assert drawn == all_drawn


def test_an_autoencoder_of_other_latents_is_refused():
    config = image_config(SIT, 8, channels=4, patch=4, num_classes=5)
    with pytest.raises(UserError, match="latents of 4 channels, the autoencoder reads 3"):
        pixel_latents(config, patch=4).load("cpu")
    other = pixel_latents(config, patch=4, fingerprint="of another")
    with pytest.raises(UserError, match="no longer the autoencoder"):
        other.load("cpu")
    assert other.source == AutoencoderConfig("pixel")
    with pytest.raises(UserError, match="no autoencoder"):
        replace(other, autoencoder=None).decode(torch.zeros(1, 4, 64))


@pytest.mark.parametrize(
    "how", [QUICK, EULER, Sampling("multistep", 3, 2.0, (0.0, 0.7), shift=2.0)]
)
def test_a_scene_is_a_function_of_its_number(how):
    maker = NumberedPictures(scenes(), how, 0, prompts=["pick coke can"])
    assert maker.size == (32, 48)
    assert_numbered(maker, 32, 48)
    told_else = NumberedPictures(scenes(), how, 0, prompts=["open drawer"])
    assert (told_else(range(2)) != maker(range(2))).any()


def test_scenes_need_a_network_of_pictures():
    with pytest.raises(UserError, match="trained with the roles policy, not image"):
        NumberedPictures(scenes(("policy",)), EULER, 0)
    with pytest.raises(UserError, match="labels must be numbers"):
        NumberedPictures(scenes(), EULER, 0, labels=[1])


def test_weights_in_bfloat16_make_nearly_the_same_pictures(classes):
    for bundle, how in ((classes, QUICK), (scenes(), EULER)):
        exact = NumberedPictures(bundle, how, 0)(range(2)).astype(float)
        coarse = NumberedPictures(bundle, replace(how, precision="bf16"), 0)(range(2))
        assert abs(coarse - exact).mean() < 4


def test_numbers_that_are_not_finite_are_one_line(classes):
    with torch.no_grad():
        bias = classes.network.adapter("first_frame").final_layer.linear.bias
        before = bias.clone()
        bias.fill_(torch.nan)
        try:
            with pytest.raises(UserError, match="not finite"):
                NumberedPictures(classes, QUICK, 0)([0])
        finally:
            bias.copy_(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 1}, "num_steps must be"),
        ({"method": "euler", "num_steps": 0}, "num_steps must be"),
        ({"shift": 0.0}, "shift must be in"),
        ({"guidance_interval": (0.5, 0.4)}, "guidance_low <= guidance_high"),
    ],
)
def test_samplings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Sampling(**changes)
