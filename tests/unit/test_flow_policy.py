"""The network behind the policy interface, and as a world model, from a checkpoint on disk."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import load_bundle, read_record
from selfflow_robotics.inference.imagine import imagine, psnr
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.training.checkpoint import load_part, save_checkpoint
from tests.fractal import FRACTAL_STATS
from tests.networks import robot_network, robot_record

CONFIG = RobotConfig(SiTConfig(width=96, depth=4, heads=3))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = Network(robot_network(CONFIG))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.05)
    record = robot_record(
        CONFIG, ["policy", "world_model", "joint"], FRACTAL_STATS, {"simulator": "tabletop"}
    )
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    return save_checkpoint(folder, 1, {"teacher": model.state_dict()}, record)


def observations(count: int, size=(64, 80)) -> list[dict]:
    generator = np.random.Generator(np.random.PCG64(0))
    return [
        {"image": generator.integers(0, 256, (*size, 3)).astype(np.uint8), "instruction": "pick"}
        for _ in range(count)
    ]


def started(checkpoint, slots, **settings) -> FlowPolicy:
    policy = FlowPolicy.from_checkpoint(checkpoint, device="cpu", **settings)
    for slot in slots:
        policy.begin(slot, EpisodeSpec("pick_coke_can", "standing", seed=100 + slot))
    return policy


@pytest.mark.parametrize("joint", [False, True])
def test_an_episode_goes_the_same_way_whatever_runs_beside_it(checkpoint, joint):
    seen = observations(5)
    together = started(checkpoint, range(5), joint=joint).act(list(range(5)), seen)
    for slot in range(5):
        (alone,) = started(checkpoint, [slot], joint=joint).act([slot], [seen[slot]])
        assert np.array_equal(alone, together[slot])


def test_chunks_are_environment_actions_and_noise_depends_on_seed_and_look(checkpoint):
    policy = started(checkpoint, [0], replan_steps=3)
    seen = observations(1)
    (first,), (second,) = policy.act([0], seen), policy.act([0], seen)
    assert first.shape == (3, 7)
    assert first.dtype == np.float32
    assert set(np.unique(first[:, 6])) <= {-1.0, 1.0}
    assert not np.array_equal(first, second)
    policy.begin(0, EpisodeSpec("pick_coke_can", "standing", seed=100))
    assert np.array_equal(policy.act([0], seen)[0], first)


def test_larger_pictures_are_averaged_down(checkpoint):
    large = observations(1)[0]["image"].repeat(4, axis=0).repeat(4, axis=1)
    policy = started(checkpoint, [0])
    (from_large,) = policy.act([0], [{"image": large, "instruction": "pick"}])
    (from_small,) = started(checkpoint, [0]).act([0], observations(1))
    assert np.array_equal(from_large, from_small)


def test_guidance_one_is_no_guidance(checkpoint):
    seen = observations(1)
    (plain,) = started(checkpoint, [0]).act([0], seen)
    (guided,) = started(checkpoint, [0], guidance_scale=1.0).act([0], seen)
    (strong,) = started(checkpoint, [0], guidance_scale=3.0).act([0], seen)
    assert np.array_equal(plain, guided)
    assert not np.array_equal(plain, strong)


def test_a_joint_rollout_imagines_the_frames_with_the_actions(checkpoint):
    seen = observations(1)
    (alone,) = started(checkpoint, [0]).act([0], seen)
    (joint,) = started(checkpoint, [0], joint=True).act([0], seen)
    assert joint.shape == alone.shape
    assert not np.array_equal(joint, alone)


def test_an_instruction_can_replace_the_tasks(checkpoint):
    [seen] = observations(1)
    told = started(checkpoint, [0], instruction="open top drawer").act([0], [seen])
    asked = started(checkpoint, [0]).act([0], [{**seen, "instruction": "open top drawer"}])
    assert np.array_equal(told, asked)
    assert not np.array_equal(told, started(checkpoint, [0]).act([0], [seen]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"instruction": 128 * "x"}, "at most 127 bytes"),
        ({"instruction": "", "guidance_scale": 2.0}, "guidance_scale has no effect"),
    ],
)
def test_an_instruction_that_cannot_be_read_is_refused_at_once(checkpoint, settings, message):
    with pytest.raises(UserError, match=message):
        FlowPolicy.from_checkpoint(checkpoint, device="cpu", **settings)


@pytest.mark.parametrize("replan_steps", [0, 7])
def test_no_more_actions_are_executed_than_predicted(checkpoint, replan_steps):
    with pytest.raises(UserError, match="replan_steps must be 1 to 6"):
        FlowPolicy.from_checkpoint(checkpoint, replan_steps=replan_steps)


def test_imagined_frames_depend_on_the_actions(checkpoint):
    network = load_bundle(checkpoint, CPU)
    frames = np.stack([o["image"] for o in observations(2)])
    actions = np.zeros((2, 4, 7), np.float32)
    still = imagine(network, frames, actions, ["pick", "pick"], num_steps=2)
    assert still.shape == (2, 4, 64, 80, 3)
    assert still.dtype == np.uint8
    actions[:, :, 0] = 0.1
    moved = imagine(network, frames, actions, ["pick", "pick"], num_steps=2)
    assert not np.array_equal(still, moved)
    with pytest.raises(UserError, match="imagines 1 to 6 frames"):
        imagine(network, frames, np.zeros((2, 7, 7)), ["pick", "pick"])


def test_with_a_frame_stride_each_frame_takes_several_actions(checkpoint):
    network = replace(load_bundle(checkpoint, CPU), frame_stride=2)
    assert network.most_imagined == 3
    frames = np.stack([o["image"] for o in observations(2)])
    words = ["pick", "pick"]
    later = imagine(network, frames, np.zeros((2, 6, 7), np.float32), words, num_steps=2)
    assert later.shape == (2, 3, 64, 80, 3)
    for actions, message in ((5, "5 is no multiple"), (8, "imagines 1 to 3 frames, not 4")):
        with pytest.raises(UserError, match=message):
            imagine(network, frames, np.zeros((2, actions, 7), np.float32), words)


def test_a_checkpoint_keeps_its_frame_stride(checkpoint, tmp_path):
    assert load_bundle(checkpoint, CPU).frame_stride == 1
    record, tensors = read_record(checkpoint), load_part(checkpoint, "teacher")

    def loaded(step, **changes):
        folder = save_checkpoint(
            tmp_path / "checkpoints", step, {"teacher": tensors}, {**record, **changes}
        )
        return load_bundle(folder, CPU)

    assert loaded(1, frame_stride=3).frame_stride == 3
    for step, damaged in enumerate((0, "2", 1.5), 2):
        with pytest.raises(UserError):
            loaded(step, frame_stride=damaged)


def test_psnr():
    black = np.zeros((2, 4, 5, 3), np.uint8)
    assert psnr(black, black + 255)[0] == pytest.approx(0)
    assert psnr(black, black + 1)[0] == pytest.approx(48.13, abs=0.01)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path, 1, {"teacher": {}}, {"not": "ours"})
    with pytest.raises(UserError, match="does not describe a network"):
        load_bundle(folder, CPU)


@pytest.mark.parametrize("key", ["model", "image_model"])
def test_a_checkpoint_of_an_earlier_version_is_one_clear_line(tmp_path, key):
    folder = save_checkpoint(tmp_path, 1, {"teacher": {}}, {key: {"sit": {"width": 192}}})
    with pytest.raises(UserError, match=r"earlier version .*; train it again$") as error:
        load_bundle(folder, CPU)
    assert "\n" not in str(error.value)
