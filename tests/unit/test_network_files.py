"""Networks from checkpoints whose records say what cannot be."""

import copy

import pytest
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import load_bundle, read_config
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.training.checkpoint import save_checkpoint
from tests.fractal import FRACTAL_STATS
from tests.networks import image_record, robot_network, robot_record

CPU = torch.device("cpu")
SIT = SiTConfig(16, 1, 2)
MODEL = RobotConfig(SIT, (16, 32), later_frames=1, action_horizon=2)
IMAGES = image_config(SIT, latent_size=4, num_classes=2)
STATS = FRACTAL_STATS.to_json()


@pytest.fixture(scope="module")
def weights():
    networks = {"robot": robot_network(MODEL), "images": IMAGES}
    return {name: Network(config).state_dict() for name, config in networks.items()}


def changed(record, path, value):
    """A copy of a record with another value at a dotted path."""
    record = copy.deepcopy(record)
    *parents, last = path.split(".")
    place = record
    for name in parents:
        place = place[name]
    place[last] = value
    return record


def saved(folder, weights, extra):
    return save_checkpoint(folder, 1, {"teacher": weights}, extra)


def test_a_record_as_it_is_written_is_read(tmp_path, weights):
    record = robot_record(MODEL, ["policy"], FRACTAL_STATS)
    bundle = load_bundle(saved(tmp_path, weights["robot"], record), CPU)
    assert bundle.network.config == robot_network(MODEL)
    assert bundle.roles == ("policy",)
    assert bundle.frames == MODEL.codec()
    assert bundle.require("policy").stats.to_json() == STATS


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("network.backbone.kind", "perceiver"),
        ("network.backbone.width", 10**9),
        ("network.backbone.depth", 10**9),
        ("network.backbone.depth", 900),
        ("network.backbone.width", 16.0),
        ("network.backbone.mlp_ratio", "4"),
        ("network.adapters.frames.grid", [2**20, 2**20]),
        ("network.adapters.frames.grid", [1.0, 2]),
        ("network.adapters.actions.channels", 10**12),
        ("network.adapters.actions.channels", 10**30),
        ("network.adapters.actions.steps", 10**12),
        ("network.slots.actions", "motors"),
        ("network.text.most_bytes", 10**12),
        ("network.text.tokens", "2"),
        ("network.feature_channels", 10**12),
        ("network", []),
        ("codecs", []),
        ("codecs.frames.image_size", [16.0, 32]),
        ("codecs.frames.patch", "16"),
        ("codecs.frames.kind", "holograms"),
        ("provenance", 5),
        ("roles", 5),
        ("codecs.actions.stats", 5),
        ("codecs.actions.stats", {"action": "x"}),
        ("codecs.actions.stats", STATS | {"num_transitions": "many"}),
        ("codecs.actions.stats", {"action": STATS["action"] | {"q01": [[[[]]]]}}),
        ("codecs.actions.stats", {"action": STATS["action"] | {"q01": ["x"] * 7}}),
    ],
)
def test_impossible_records_are_one_line(tmp_path, weights, path, value):
    record = changed(robot_record(MODEL, ["policy"], FRACTAL_STATS), path, value)
    with pytest.raises(UserError) as error:
        load_bundle(saved(tmp_path, weights["robot"], record), CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("network.num_classes", 10**12),
        ("network.adapters.frames.grid", [10**6, 10**6]),
        ("network.adapters.frames.channels", "16"),
        ("codecs.frames.patch", 2.0),
        ("labels", [7]),
    ],
)
def test_impossible_records_of_image_networks_are_one_line(tmp_path, weights, path, value):
    record = changed(image_record(IMAGES, patch=2), path, value)
    with pytest.raises(UserError):
        load_bundle(saved(tmp_path, weights["images"], record), CPU)


def test_a_run_of_an_autoencoder_is_no_network(tmp_path):
    folder = saved(tmp_path, {"x": torch.zeros(1)}, {"kind": "autoencoder", "data": {}})
    for read in (read_config, lambda path: load_bundle(path, CPU)):
        with pytest.raises(UserError, match=r"autoencoder\.weights"):
            read(folder)


def test_a_file_of_a_checkpoint_names_its_folder(tmp_path, weights):
    folder = saved(tmp_path, weights["images"], image_record(IMAGES, patch=2))
    with pytest.raises(UserError) as error:
        load_bundle(folder / "teacher.safetensors", CPU)
    assert str(error.value).endswith(str(folder))
