"""Networks from checkpoints whose records say what cannot be."""

from dataclasses import asdict

import pytest
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.models.image_sit import ImageSiT, ImageSiTConfig
from selfflow_robotics.models.multimodal import MultimodalConfig, MultimodalSiT
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.training.checkpoint import save_checkpoint
from selfflow_robotics.world.image_network import load_image_network
from selfflow_robotics.world.network import checkpoint_record, load_network
from tests.fractal import FRACTAL_STATS

CPU = torch.device("cpu")
SIT = SiTConfig(16, 1, 2)
MODEL = MultimodalConfig(SIT, (16, 32), later_frames=1, action_horizon=2)
IMAGES = ImageSiTConfig(SIT, latent_size=4, num_classes=2)


@pytest.fixture(scope="module")
def weights():
    return {"robot": MultimodalSiT(MODEL).state_dict(), "images": ImageSiT(IMAGES).state_dict()}


def record(**changes):
    return checkpoint_record(MODEL, FRACTAL_STATS, {}, {"policy": 1.0}) | changes


def saved(folder, weights, extra):
    return save_checkpoint(folder, 1, {"teacher": weights}, extra)


def test_a_record_as_it_is_written_is_read(tmp_path, weights):
    network = load_network(saved(tmp_path, weights["robot"], record()), CPU)
    assert network.model.config == MODEL
    assert network.roles == ("policy",)


def test_networks_from_before_the_length_of_texts_was_a_setting_are_read(tmp_path):
    old = MultimodalConfig(SIT, (16, 32), later_frames=1, action_horizon=2, text_bytes=63)
    extra = record(model={k: v for k, v in asdict(old).items() if k != "text_bytes"})
    network = load_network(saved(tmp_path, MultimodalSiT(old).state_dict(), extra), CPU)
    assert network.model.config.text_bytes == 63


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"sit": {"width": 10**9}}},
        {"model": {"sit": {"depth": 10**9}}},
        {"model": {"sit": {"depth": 900}}},
        {"model": {"sit": {"width": 16.0}}},
        {"model": {"sit": {"mlp_ratio": "4"}}},
        {"model": {"image_size": [2**20, 2**20]}},
        {"model": {"image_size": [16.0, 32]}},
        {"model": {"action_dim": 10**12}},
        {"model": {"action_dim": 10**30}},
        {"model": {"text_bytes": 10**12}},
        {"model": {"text_tokens": "2"}},
        {"model": {"feature_channels": 10**12}},
        {"model": []},
        {"provenance": 5},
        {"roles": 5},
        {"norm_stats": 5},
        {"norm_stats": {"action": "x"}},
        {"norm_stats": FRACTAL_STATS.to_json() | {"num_transitions": "many"}},
        {"norm_stats": {"action": FRACTAL_STATS.to_json()["action"] | {"q01": [[[[]]]]}}},
        {"norm_stats": {"action": FRACTAL_STATS.to_json()["action"] | {"q01": ["x"] * 7}}},
    ],
)
def test_impossible_records_are_one_line(tmp_path, weights, changes):
    if isinstance(model := changes.get("model"), dict):
        sit = asdict(SIT) | model.get("sit", {})
        changes = {"model": asdict(MODEL) | model | {"sit": sit}}
    checkpoint = saved(tmp_path, weights["robot"], record(**changes))
    with pytest.raises(UserError):
        load_network(checkpoint, CPU)


@pytest.mark.parametrize(
    "changes", [{"num_classes": 10**12}, {"latent_size": 10**6}, {"channels": "4"}, {"patch": 2.0}]
)
def test_impossible_records_of_image_networks_are_one_line(tmp_path, weights, changes):
    extra = {
        "image_model": asdict(IMAGES) | changes,
        "autoencoder": {"kind": "pixel", "weights": None},
        "class_names": None,
    }
    with pytest.raises(UserError):
        load_image_network(saved(tmp_path, weights["images"], extra), CPU)
