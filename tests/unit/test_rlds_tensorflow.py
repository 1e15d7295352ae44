"""TensorFlow Datasets with TensorFlow reads what our writer records, value for value."""

import hashlib
import json

import numpy as np
import pytest

from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.schema import ACTIONS, OBSERVATIONS
from tests.rlds_sets import GOLDEN, GOLDEN_SET, IMAGE_SIZE, make_set, make_steps

pytest.importorskip("tensorflow")


def read_with_tensorflow(directory):
    import tensorflow_datasets as tfds

    dataset = tfds.builder_from_directory(str(directory)).as_dataset(split="train")
    for episode in dataset:
        steps = list(tfds.as_numpy(episode["steps"]))
        yield tfds.as_numpy({k: v for k, v in episode.items() if k != "steps"}), steps


def test_our_data_set(tmp_path):
    lengths = [3, 2, 4]
    directory = make_set(tmp_path, lengths)
    index = RldsIndex.open(directory)
    read = list(read_with_tensorflow(directory))
    assert len(read) == 3
    for description, steps in read:
        # TensorFlow reads shards in its own order; the first tool pose tells which episode it is.
        start = np.flatnonzero(
            (index.proprio[:, :7] == steps[0]["observation"]["base_pose_tool_reached"]).all(1)
        )[0]
        episode = int(index.episode_of(start))
        assert len(steps) == lengths[episode]
        assert description["aspects"] == {
            "already_success": False,
            "feasible": True,
            "has_aspects": True,
            "success": episode % 2 == 0,
            "undesirable": False,
        }
        attributes = description["attributes"]
        note = json.loads(attributes.pop("collection_mode_name"))
        assert note == {"seed": episode, "success": episode % 2 == 0}
        assert json.loads(attributes.pop("env_name"))["provenance"] == {"simulator": "none"}
        assert set(attributes.values()) == {0, b""}
        for t, (theirs, written) in enumerate(zip(steps, make_steps(episode, 99), strict=False)):
            last = t == len(steps) - 1
            assert (theirs["is_first"], theirs["is_last"]) == (t == 0, last)
            assert theirs["is_terminal"] == last
            assert theirs["reward"] == last
            action, observation = theirs["action"], theirs["observation"]
            assert action.pop("terminate_episode").tolist() == ([1, 0, 0] if last else [0, 1, 0])
            assert {k: v.shape for k, v in action.items()} == ACTIONS
            for key in ("world_vector", "rotation_delta", "gripper_closedness_action"):
                np.testing.assert_array_equal(action[key], np.float32(written[key]).reshape(-1))
            assert observation.pop("natural_language_instruction") == b"pick coke can"
            image = observation.pop("image")
            assert image.shape == (*IMAGE_SIZE, 3)
            np.testing.assert_array_equal(image, index.frame(int(start) + t))
            assert {k: v.shape for k, v in observation.items()} == OBSERVATIONS
            proprio = np.float32(written["proprio"])
            np.testing.assert_array_equal(observation["base_pose_tool_reached"], proprio[:7])
            np.testing.assert_array_equal(observation["gripper_closed"], proprio[7:])


def test_golden_set_reads_as_recorded():
    """The expectation that the TensorFlow-free reader is held to is still what TensorFlow gives."""
    expected = json.loads((GOLDEN / "expected.json").read_text())
    ((_, steps),) = read_with_tensorflow(GOLDEN_SET)
    hashes = [hashlib.sha256(step["observation"]["image"]).hexdigest() for step in steps]
    assert hashes == expected["image_sha256_tf_default_decode"]
    world_vectors = np.stack([step["action"]["world_vector"] for step in steps])
    np.testing.assert_array_equal(world_vectors, np.float32(expected["world_vector"]))
