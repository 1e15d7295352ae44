"""Frozen encoders: our own networks, and how tokens and grids meet their features."""

import pytest
import torch

from selfflow_robotics.autoencoders.latent import PixelLatents
from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.encoders.frames import pool_features, resize_frames
from selfflow_robotics.encoders.load import (
    check_encoder,
    encoder_of_tokens,
    head_channels,
    load_encoder,
)
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import load_bundle
from selfflow_robotics.modalities.latents import ImageLatents, patchify
from selfflow_robotics.modalities.pixels import PixelPatches
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.timesteps import Timesteps
from selfflow_robotics.training.checkpoint import save_checkpoint
from tests.networks import (
    ask_image,
    image_bundle,
    image_record,
    robot_network,
    robot_record,
    waken,
)

TINY = RobotConfig(SiTConfig(width=24, depth=4, heads=3), image_size=(32, 48))
REPA = ObjectiveConfig(mask_ratio=0, target="encoder")


def frames(*shape: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (*shape, 3), dtype=torch.uint8, generator=torch_generator("test", 0)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with one checkpoint of a network whose blocks do something."""
    torch.manual_seed(0)
    model = Network(robot_network(TINY))
    for name, parameter in model.named_parameters():
        if "adaLN" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("run")
    record = robot_record(TINY, ["image"])
    save_checkpoint(folder / "checkpoints", 1, {"teacher": model.state_dict()}, record)
    return folder


@pytest.mark.parametrize(("suffix", "layer"), [("", 3), ("@1", 1), ("@4", 4)])
def test_a_run_gives_a_layers_features_of_the_clean_picture(run, suffix, layer):
    encoder = load_encoder(f"run:{run}{suffix}")
    pictures = frames(2, 32, 48)
    features = encoder(pictures, (2, 3))
    bundle = load_bundle(run, torch.device("cpu"))
    tokens = bundle.frames.encode(pictures[:, None])
    context = bundle.network.encode_context({}, ["", ""])
    slots = {"first_frame": bundle.slot("first_frame", tokens)}
    _, expected = bundle.network(slots, Timesteps.constant(0.0, tokens), context, (layer,))
    assert features.shape == (2, 6, encoder.channels) == (2, 6, 24)
    assert not features.requires_grad
    torch.testing.assert_close(features, expected[layer].detach())


def test_a_run_takes_pictures_and_grids_of_other_sizes(run):
    encoder = load_encoder(f"run:{run}")
    whole = encoder(frames(1, 32, 48), (2, 3))
    torch.testing.assert_close(encoder(frames(1, 32, 48), (1, 1))[:, 0], whole.mean(dim=1))
    assert encoder(frames(1, 64, 80), (4, 5)).shape == (1, 20, 24)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dinov3", "unknown encoder 'dinov3'; give dinov2-b, hf:NAME_OR_PATH"),
        ("hf:", "unknown encoder 'hf:'"),
        ("hub:dinov2_vitb14", "unknown encoder"),
        ("run:no/where", "no checkpoint at no/where"),
        ("run:{run}@5", "layer 5 does not exist; the network has layers 1 to 4"),
        ("run:{run}@0", "layer 0 does not exist"),
    ],
)
def test_a_name_that_means_nothing_is_one_line(run, name, message):
    with pytest.raises(UserError, match=message) as caught:
        load_encoder(name.format(run=run))
    assert "\n" not in str(caught.value)


def test_tokens_and_features_keep_their_order():
    """An encoder that tells every patch's mean brightness, over two slots and three frames."""
    auto = PixelPatches((32, 48))
    pictures = frames(2, 3, 32, 48)
    tokens = auto.encode(pictures)
    slots = {"first_frame": tokens[:, :6], "later_frames": tokens[:, 6:]}

    def brightness(pictures, grid):
        assert pictures.dtype == torch.uint8
        return pool_features(
            pictures.float().mean(dim=3).flatten(1)[..., None], pictures.shape[1:3], grid
        )

    features = encoder_of_tokens(brightness, auto)(slots)
    expected = (tokens.mean(dim=2, keepdim=True) + 1) * 127.5
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-2)


def test_latents_are_decoded_a_few_at_a_time_and_keep_their_order():
    pictures = frames(35, 8, 8)
    tokens = patchify(PixelLatents().encode(pictures)[0], 4)
    sizes = []

    def brightness(decoded, grid):
        sizes.append(len(decoded))
        means = decoded.float().mean(dim=3).flatten(1)[..., None]
        return pool_features(means, decoded.shape[1:3], grid)

    source = AutoencoderConfig("pixel")
    codec = ImageLatents((8, 8), 3, 4, source, "pixel", 1, PixelLatents())
    features = encoder_of_tokens(brightness, codec)({"first_frame": tokens})
    assert sizes == [16, 16, 3]
    expected = (tokens.mean(dim=2, keepdim=True) + 1) * 127.5
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-2)


def test_pooling_is_by_area_and_growing_bilinear():
    features = torch.arange(4.0).view(1, 4, 1)
    assert pool_features(features, (2, 2), (1, 2)).flatten().tolist() == [1.0, 2.0]
    grown = pool_features(features, (2, 2), (2, 4)).flatten()
    torch.testing.assert_close(grown[:4], torch.tensor([0, 0.25, 0.75, 1]))
    assert pool_features(features.half(), (2, 2), (2, 2)).dtype == torch.float32


def test_resizing_keeps_pixels_in_their_range():
    stripes = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    stripes[:, :, ::4] = 255
    assert (resize_frames(stripes, (8, 8)) == stripes.permute(0, 3, 1, 2)).all()
    large = resize_frames(stripes, (24, 32))
    assert large.shape == (1, 3, 24, 32)
    assert 0 <= large.min() < large.max() <= 255


def test_an_objective_and_its_encoder_come_together():
    check_encoder(REPA, "dinov2-b")
    check_encoder(ObjectiveConfig(), None)
    with pytest.raises(UserError, match=r"needs an encoder: encoder=dinov2-b, hf:NAME_OR_PATH"):
        check_encoder(REPA, None)
    with pytest.raises(UserError, match=r"is for objective=repa .* leave it out"):
        check_encoder(ObjectiveConfig(), "dinov2-b")


def test_without_a_head_the_widths_must_agree(run):
    encoder = load_encoder(f"run:{run}")
    headless = ObjectiveConfig(mask_ratio=0, target="encoder", head=False)
    assert head_channels(encoder, REPA, 48) == head_channels(encoder, headless, 24) == 24
    with pytest.raises(UserError, match=r"24 channels, the network 48; .*objective\.head=true"):
        head_channels(encoder, headless, 48)


def test_the_head_predicts_as_many_channels_as_it_is_told():
    images = image_config(TINY.sit, latent_size=4, num_classes=2, feature_channels=10)
    for config in (robot_network(TINY, 10), images):
        model = Network(config)
        assert model.projector(torch.zeros(1, 2, 24)).shape == (1, 2, 10)
        assert model.projector.linear1.weight.shape == (34, 24)
    assert Network(robot_network(TINY)).projector.linear1.weight.shape == (48, 24)
    with pytest.raises(UserError, match=r"feature_channels must be at least 1, got 0"):
        robot_network(TINY, 0)


IMAGES = image_config(SiTConfig(24, 2, 3), latent_size=4, channels=3, patch=2, num_classes=2)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"model": 5}, "written by an earlier version"),
        ({"network": 5}, "does not describe a network this version knows"),
        ({}, "does not describe a network this version knows"),
    ],
)
def test_a_record_of_another_kind_is_one_line(tmp_path, record, message):
    save_checkpoint(tmp_path / "checkpoints", 1, {"teacher": {}}, record)
    for use in (
        lambda: load_bundle(tmp_path, torch.device("cpu")),
        lambda: load_encoder(f"run:{tmp_path}"),
    ):
        with pytest.raises(UserError, match=message):
            use()


def test_a_network_of_labelled_pictures_gets_the_null_label(tmp_path):
    torch.manual_seed(0)
    model = waken(Network(IMAGES))
    parts = {"teacher": model.state_dict()}
    save_checkpoint(tmp_path / "checkpoints", 1, parts, image_record(IMAGES, patch=2))
    encoder, pictures = load_encoder(f"run:{tmp_path}@2"), frames(3, 4, 4)
    bundle = image_bundle(model, patch=2)
    tokens = bundle.frames.encode(pictures[:, None])
    clean = Timesteps.constant(0.0, tokens)
    _, expected = ask_image(model, tokens, (clean.values, clean.index), layers=(2,))
    torch.testing.assert_close(encoder(pictures, (2, 2)), expected[2].detach())
    torch.testing.assert_close(encoder.pooled(pictures), expected[2].detach().mean(dim=1))


def test_whole_pictures_and_the_identity_of_an_encoder(run):
    pictures = frames(2, 32, 48)
    encoder, other = load_encoder(f"run:{run}@2"), load_encoder(f"run:{run}@3")
    torch.testing.assert_close(encoder.pooled(pictures), encoder(pictures, (2, 3)).mean(dim=1))
    assert encoder.fingerprint == load_encoder(f"run:{run}@2").fingerprint != other.fingerprint
