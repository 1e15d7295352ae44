"""Pictures by number out of both kinds of network: `world.pictures`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from selfflow_robotics.models.image_sit import ImageSiT, ImageSiTConfig
from selfflow_robotics.models.multimodal import MultimodalConfig, MultimodalSiT
from selfflow_robotics.world.image_network import ImageNetwork
from selfflow_robotics.world.network import Network
from selfflow_robotics.world.pictures import ClassPictures, Sampling, ScenePictures

from selfflow_robotics.autoencoders.latent import PixelLatents
from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.errors import UserError
from selfflow_robotics.models.sit import SiTConfig

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
    model = filled(ImageSiT(ImageSiTConfig(SIT, 8, channels=3, patch=4, num_classes=5)))
    return ImageNetwork(model, AutoencoderConfig("pixel"), None, Path("run"))


def scenes(roles=("clip", "image")):
    config = MultimodalConfig(SIT, image_size=(32, 48), patch=16)
    model = filled(MultimodalSiT(config))
    return Network(model, None, {}, roles, Path("run"), torch.device("cpu"))


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
    maker = ClassPictures(classes, PixelLatents(), how, seed=3)
    assert maker.size == (8, 8)
    assert_numbered(maker, 8, 8)
    other = ClassPictures(classes, PixelLatents(), how, seed=4)
    assert (other(range(4)) != maker(range(4))).any()


def test_classes_are_drawn_at_random_or_take_turns(classes):
    maker = ClassPictures(classes, PixelLatents(), QUICK, seed=0)
    drawn = [maker.label(number) for number in range(1000)]
    counts = np.bincount(drawn, minlength=5)
    assert len(counts) == 5
    assert (abs(counts - 200) < 60).all()
    assert (counts != 200).any()
    turns = ClassPictures(classes, PixelLatents(), QUICK, seed=0, labels=[4, 1])
    assert [turns.label(number) for number in range(5)] == [4, 1, 4, 1, 4]
    for labels in ([5], [-1], []):
        with pytest.raises(UserError, match="labels must be numbers from 0 to 4"):
            ClassPictures(classes, PixelLatents(), QUICK, 0, labels)


def test_an_autoencoder_of_other_latents_is_refused(classes):
    with pytest.raises(UserError, match="latents of 3 channels, the autoencoder reads 4"):
        ClassPictures(classes, PixelLatents(channels=4), QUICK, seed=0)


@pytest.mark.parametrize("how", [EULER, Sampling("multistep", 3, 2.0, (0.0, 0.7), 2.0)])
def test_a_scene_is_a_function_of_its_number(how):
    maker = ScenePictures(scenes(), how, 0, "pick coke can")
    assert maker.size == (32, 48)
    assert_numbered(maker, 32, 48)
    told_else = ScenePictures(scenes(), how, 0, "open drawer")
    assert (told_else(range(2)) != maker(range(2))).any()


def test_scenes_need_a_network_of_pictures_and_an_equation_without_noise():
    with pytest.raises(UserError, match="trained on policy, never to make pictures"):
        ScenePictures(scenes(("policy",)), EULER, 0, "")
    with pytest.raises(UserError, match=r"method=sde .* choose euler, heun or multistep"):
        ScenePictures(scenes(), QUICK, 0, "")


def test_numbers_that_are_not_finite_are_one_line(classes):
    with torch.no_grad():
        bias = classes.model.final_layer.linear.bias
        before = bias.clone()
        bias.fill_(torch.nan)
        try:
            with pytest.raises(UserError, match="not finite"):
                ClassPictures(classes, PixelLatents(), QUICK, 0)([0])
        finally:
            bias.copy_(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 1}, "num_steps must be at least 2"),
        ({"method": "euler", "num_steps": 0}, "num_steps must be at least 1"),
        ({"shift": 0.0}, "shift must be in"),
        ({"guidance_interval": (0.5, 0.4)}, "guidance_low <= guidance_high"),
    ],
)
def test_samplings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Sampling(**changes)
