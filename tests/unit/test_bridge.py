"""BridgeData V2's features: conversions, what is written, what is read."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from selfflow_robotics.data.rlds.bridge import bridge_features
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.tfrecord import read_records
from selfflow_robotics.data.rlds.writer import RldsWriter
from selfflow_robotics.data.robot_windows import RobotData, Source
from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.actions import policy_from_rt1
from selfflow_robotics.robot.bridge import (
    policy_from_bridge,
    proprio_from_state,
    state_from_proprio,
)
from selfflow_robotics.rollouts import demonstrations
from selfflow_robotics.rollouts.demonstrations import CollectConfig, collect
from tests.rlds_sets import IMAGE_SIZE, edit_record, make_set, make_steps, shard

PROVENANCE = {"simulator": "none", "robot": "widowx"}
# SIMPLER's proprioception after a reset: the tool points nearly straight down.
RESET = [0.29207, -0.006091, 0.13532, 0.005257, 0.726866, -0.008084, 0.686712, 0.0]


def open_writer(root):
    return RldsWriter(root, "toy", "0.1.0", IMAGE_SIZE, PROVENANCE, 2, layout="bridge")


def steps_of(episode, length):
    steps = make_steps(episode, length)
    for step in steps:  # a pose has a unit quaternion and a gripper between open and closed
        quaternion = step["proprio"][3:7] / np.linalg.norm(step["proprio"][3:7])
        quaternion *= -1 if quaternion[3] < 0 else 1
        step["proprio"] = np.concatenate([step["proprio"][:3], quaternion, [0.25]])
    return steps


@pytest.fixture
def recorded(tmp_path):
    with open_writer(tmp_path) as writer:
        for episode, length in enumerate((4, 3, 5)):
            metadata = {"success": episode != 1, "disturbed": episode == 2, "seed": episode}
            writer.write_episode(steps_of(episode, length), metadata)
        return writer.finish()


def test_a_state_is_relative_to_pointing_down():
    state = state_from_proprio(np.array([RESET]))[0]
    np.testing.assert_allclose(state[:3], RESET[:3], atol=1e-6)
    assert np.abs(state[3:6]).max() < 0.1
    assert state[6] == 1.0  # open
    rolled = np.array([[0, 0, 0, 0, np.sin(np.pi / 4 + 0.1), 0, np.cos(np.pi / 4 + 0.1), 1.0]])
    np.testing.assert_allclose(state_from_proprio(rolled)[0, 3:], [0, 0.2, 0, 0], atol=1e-6)


def test_states_convert_there_and_back():
    proprio = np.array([step["proprio"] for step in steps_of(0, 50)])
    again = proprio_from_state(state_from_proprio(proprio))
    np.testing.assert_allclose(again, proprio, atol=2e-6)
    assert (again[:, 6] >= 0).all()


@pytest.mark.parametrize(
    ("gripper", "expected"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0]),
        ([1, 0.8, 0.4, 0, 0.3, 1], [1, 0, 0, 0, 1, 1]),  # on its way to the next
        ([0, 0.3, 0.7], [0, 1, 1]),  # never decided: what it ends nearer to
        ([0.2, 0.2], [0, 0]),
    ],
)
def test_grippers_are_open_or_closed(gripper, expected):
    actions = np.zeros((len(gripper), 7), np.float32)
    actions[:, :6], actions[:, 6] = 0.01, gripper
    vectors = policy_from_bridge(actions)
    assert vectors[:, 6].tolist() == expected
    np.testing.assert_array_equal(vectors[:, :6], actions[:, :6])


def test_what_is_written_is_read(recorded):
    index = RldsIndex.open(recorded)
    assert index.episode_length.tolist() == [4, 3, 5]
    assert index.success.tolist() == [True, False, True]
    assert index.disturbed.tolist() == [False, False, True]
    assert index.provenance == {"dataset": "toy", "split": "train", **PROVENANCE}
    assert index.instructions == ["pick coke can"]
    for episode, (start, length) in enumerate(
        zip(index.episode_start, index.episode_length, strict=True)
    ):
        steps, taken = steps_of(episode, length), slice(start, start + length)
        arrays = (
            np.array([step[key] for step in steps]).reshape(length, -1)
            for key in ("world_vector", "rotation_delta", "gripper_closedness_action")
        )
        np.testing.assert_allclose(index.actions[taken], policy_from_rt1(*arrays), atol=1e-6)
        proprio = np.array([step["proprio"] for step in steps])
        np.testing.assert_allclose(index.proprio[taken], proprio, atol=2e-6)
        seen = index.frame(start).astype(int)
        assert np.abs(seen - steps[0]["image"]).mean() < 3


def test_tensorflow_datasets_reads_it(recorded):
    builder = tfds.builder_from_directory(recorded)
    expected = bridge_features(*IMAGE_SIZE)
    assert repr(builder.info.features) == repr(expected)
    (_, record), *_ = read_records(shard(recorded))
    episode = builder.info.features.deserialize_example_np(record)
    assert episode["episode_metadata"]["has_image_0"]
    assert not episode["episode_metadata"]["has_image_1"]
    step = next(iter(episode["steps"]))
    assert step["observation"]["state"].shape == step["action"].shape == (7,)
    assert step["observation"]["image_0"].shape == (*IMAGE_SIZE, 3)
    assert not step["observation"]["image_3"].any()
    assert step["language_instruction"].decode() == "pick coke can"
    assert step["is_first"]
    assert step["discount"] == 1


@pytest.mark.parametrize("place", [("action", 0), ("action", 6), ("observation/state", 4)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_leave_the_episode_out(recorded, place, value):
    key, column = place

    def edit(features):
        features[f"steps/{key}"].float_list.value[7 + column] = value

    edit_record(shard(recorded), 0, edit)
    index = RldsIndex.open(recorded)
    assert index.episode_length.tolist() == [3, 5]
    assert index.left_out["numbers not finite"] == 1


def test_an_interrupted_recording_goes_on(tmp_path, recorded):
    with open_writer(tmp_path / "other") as writer:
        writer.write_episode(steps_of(0, 4), {"success": True, "disturbed": False, "seed": 0})
    with open_writer(tmp_path / "other") as writer:
        assert writer.episodes_done == 1
        for episode, length in ((1, 3), (2, 5)):
            metadata = {"success": episode != 1, "disturbed": episode == 2, "seed": episode}
            writer.write_episode(steps_of(episode, length), metadata)
        again = writer.finish()
    for path in sorted(recorded.iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_files_of_others_have_no_note(recorded):
    def original(features):
        features["episode_metadata/file_path"].bytes_list.value[0] = b"/data/0/out.npy"

    for number in range(2):
        edit_record(shard(recorded), number, original)
    edit_record(shard(recorded, 1), 0, original)
    info = json.loads((recorded / "dataset_info.json").read_text())
    info |= {"moduleName": "", "description": "WidowX"}
    (recorded / "dataset_info.json").write_text(json.dumps(info))
    index = RldsIndex.open(recorded)
    assert not index.success.any()
    assert not index.failed.any()  # nobody says
    assert index.provenance == {"dataset": "toy", "split": "train"}


def test_a_missing_key_is_named(recorded):
    path = recorded / "features.json"
    content = json.loads(path.read_text())
    step = content["featuresDict"]["features"]["steps"]["sequence"]["feature"]
    del step["featuresDict"]["features"]["language_instruction"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"lacks 'steps/language_instruction'; .*bridge_dataset"):
        RldsIndex.open(recorded)


def test_widowx_is_recorded_so(tmp_path):
    config = CollectConfig(
        task="widowx_carrot_on_plate", num_episodes=2, root=str(tmp_path), processes=1
    )
    directory = collect(config)
    index = RldsIndex.open(directory)
    assert index.provenance["robot"] == "widowx"
    assert index.provenance["task"] == "carrot_on_plate"
    assert index.success.all()
    (_, record), *_ = read_records(shard(directory))
    keys = tf_example_pb2.Example.FromString(record).features.feature
    assert "steps/observation/image_0" in keys
    # Every demonstration closes the gripper and opens it again.
    for start, length in zip(index.episode_start, index.episode_length, strict=True):
        assert set(index.actions[start : start + length, 6]) == {0.0, 1.0}


def test_a_data_set_is_of_one_robot():
    with pytest.raises(UserError, match="of one robot") as caught:
        CollectConfig(task="all,widowx")
    assert "\n" not in str(caught.value)
    robots = {task.robot for task in demonstrations.get_tasks("all,widowx")}
    assert robots == set(demonstrations.LAYOUTS)


def test_play_of_another_robot_is_refused(tmp_path, recorded):
    bridge, fractal = RldsIndex.open(recorded), RldsIndex.open(make_set(tmp_path / "rt1", [4, 3]))
    with pytest.raises(UserError, match="of two robots"):
        RobotData([Source(fractal)], Source(bridge), SimpleNamespace())
