"""Data sets of other owners: what means the same is read, what does not is named."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from google.protobuf import json_format

from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.schema import GRIPPER, IMAGE, TEXT, check_features
from selfflow_robotics.data.robot_windows import choose_episodes, split_episodes
from selfflow_robotics.errors import UserError
from tests.rlds_sets import edit_record, make_set, make_steps, shard

F = tfds.features
ROOT = Path(__file__).parents[2]
LENGTHS = [4, 3, 5, 2, 6]
ARM = {"world_vector": F.Tensor(shape=(3,), dtype=np.float32)}
CLOSED = "steps/observation/gripper_closed"


@pytest.fixture
def toy(tmp_path):
    return make_set(tmp_path, LENGTHS)  # two episodes a shard


def features(steps=F.Dataset, observation=None, action=None, **top):
    """features.json of a data set with some other features."""
    step = {
        "observation": {
            "image": F.Image(shape=(16, 24, 3), encoding_format="jpeg"),
            "natural_language_instruction": F.Text(),
            "base_pose_tool_reached": F.Tensor(shape=(7,), dtype=np.float32),
            "gripper_closed": F.Tensor(shape=(1,), dtype=np.float32),
        }
        | (observation or {}),
        "action": {
            "world_vector": F.Tensor(shape=(3,), dtype=np.float32),
            "rotation_delta": F.Tensor(shape=(3,), dtype=np.float32),
            "gripper_closedness_action": F.Tensor(shape=(1,), dtype=np.float32),
        }
        | (action or {}),
    }
    return json_format.MessageToDict(F.FeaturesDict({"steps": steps(step), **top}).to_proto())


def tensor(shape, kind, **options):
    return F.Tensor(shape=shape, dtype=kind, **options)


GOOD = {
    "scalar gripper": {"action": {"gripper_closedness_action": F.Scalar(dtype=np.float32)}},
    "int32 gripper": {"action": {"gripper_closedness_action": tensor((1,), np.int32)}},
    "int64 scalar gripper": {"action": {"gripper_closedness_action": tensor((), np.int64)}},
    "float64": {"action": {"world_vector": tensor((3,), np.float64)}},
    "row": {"action": {"world_vector": tensor((1, 3), np.float16)}},
    "bool closed": {"observation": {"gripper_closed": tensor((), np.bool_)}},
    "Sequence": {"steps": F.Sequence},
    "grey PNG": {"observation": {"image": F.Image(shape=(16, 24, 1))}},
    "encoded picture": {"observation": {"image": tensor((), np.str_)}},
    "text tensor": {"observation": {"natural_language_instruction": tensor((1,), np.str_)}},
    "others": {"observation": {"depth": tensor((16, 24), np.float32)}, "note": F.Text()},
}
BAD = {
    "raw picture": ({"observation": {"image": tensor((16, 24, 3), np.uint8)}}, IMAGE, "Tensor"),
    "16 bits": ({"observation": {"image": F.Image(shape=(9, 9, 1), dtype=np.uint16)}}, IMAGE, "16"),
    "float": ({"observation": {"image": F.Image(shape=(9, 9, 1), dtype=np.float32)}}, IMAGE, "32"),
    "film": ({"observation": {"image": F.Sequence(F.Image())}}, IMAGE, "2 Sequences"),
    "size": ({"action": {"world_vector": tensor((4,), np.float32)}}, "world_vector", "(4,)"),
    "any size": ({"action": {"world_vector": tensor((None,), np.float32)}}, "world_vector", "3"),
    "text": ({"action": {"world_vector": F.Text()}}, "world_vector", "Text"),
    "zlib": (
        {"action": ARM | {"rotation_delta": tensor((3,), np.float32, encoding="zlib")}},
        "rotation_delta",
        "zlib",
    ),
    "bool command": (
        {"action": {"gripper_closedness_action": tensor((1,), np.bool_)}},
        GRIPPER,
        "bool",
    ),
    "unsigned": (
        {"action": {"gripper_closedness_action": tensor((1,), np.uint8)}},
        GRIPPER,
        "uint8",
    ),
    "embedding": (
        {"observation": {"natural_language_instruction": tensor((512,), np.float32)}},
        TEXT,
        "512",
    ),
    "no Dataset": ({"steps": F.FeaturesDict}, IMAGE, "0 Sequences"),
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD.keys())
def test_features_that_mean_the_same(change):
    check_features(features(**change), Path("features.json"))


@pytest.mark.parametrize(("change", "key", "word"), BAD.values(), ids=BAD.keys())
def test_features_that_do_not_are_named(change, key, word):
    with pytest.raises(UserError) as caught:
        check_features(features(**change), Path("features.json"))
    assert key in str(caught.value)
    assert word in str(caught.value)
    assert "copy" not in str(caught.value)


def as_integers(*keys):
    def edit(values):
        for key in keys:
            numbers = [round(value) for value in values[key].float_list.value]
            values[key].int64_list.value[:] = numbers

    return edit


def test_numbers_of_another_type_are_read(toy):
    expected = RldsIndex.open(toy)
    for number in range(2):
        edit_record(shard(toy), number, as_integers(GRIPPER, CLOSED))
    index = RldsIndex.open(toy)
    np.testing.assert_array_equal(index.actions, expected.actions)
    np.testing.assert_array_equal(index.proprio[:7, 7], np.round(expected.proprio[:7, 7]))


@pytest.mark.parametrize("key", [IMAGE, TEXT, CLOSED])
def test_a_record_of_another_kind_is_named(toy, key):
    def edit(values):
        kind = "int64_list" if key in (IMAGE, TEXT) else "bytes_list"
        getattr(values[key], kind).value.extend([1] * 3 if key != CLOSED else [b"1"] * 3)

    edit_record(shard(toy), 1, edit)
    with pytest.raises(UserError, match=key) as caught:
        RldsIndex.open(toy)
    assert "copy" not in str(caught.value)


@pytest.mark.parametrize("key", [IMAGE, TEXT])
def test_the_one_key_that_disagrees_is_named(toy, key):
    edit_record(shard(toy), 1, lambda values: values[key].bytes_list.value.pop())
    with pytest.raises(UserError, match=f"'{key}' has 2 values, expected 3"):
        RldsIndex.open(toy)


@pytest.mark.parametrize(
    "metadata",
    [
        [1, 2],
        "words",
        {"episodes": 5},
        {"episodes": ["a", "b", "c", "d", "e"]},
        {"episodes": {"0": 1}, "provenance": ["a"]},
        {"provenance": "UR5 lab, 2024", "episodes": [None, {"disturbed": True}]},
    ],
)
def test_metadata_of_any_owner(toy, metadata):
    info = json.loads((toy / "dataset_info.json").read_text())
    info |= {"moduleName": "lab.toy", "description": "Of a lab"}
    (toy / "dataset_info.json").write_text(json.dumps(info))
    (toy / "metadata.json").write_text(json.dumps(metadata))
    index = RldsIndex.open(toy)
    assert index.num_episodes == 5
    # The simulator is what the records themselves say.
    assert index.provenance == {"dataset": "toy", "split": "train", "simulator": "none"}


@pytest.mark.parametrize(
    ("split", "episodes"),
    [
        ("train", [0, 1, 2, 3, 4]),
        ("all", [0, 1, 2, 3, 4]),
        ("train[:60%]", [0, 1, 2]),
        ("train[1:4]", [1, 2, 3]),
        ("train[-1:]", [4]),
        ("train[1shard]", [2, 3]),
        ("train[3:]+train[:1]", [3, 4, 0]),
        ("train[2:3] + train[4:]", [2, 4]),
    ],
)
def test_splits_mean_what_they_mean_to_tensorflow_datasets(toy, split, episodes):
    index = RldsIndex.open(toy, split)
    assert index.episode_length.tolist() == [LENGTHS[e] for e in episodes]
    assert index.provenance["split"] == split
    for row, episode in enumerate(episodes):
        step = make_steps(episode, LENGTHS[episode])[0]
        frame = index.episode_start[row]
        np.testing.assert_array_equal(index.proprio[frame], np.float32(step["proprio"]))
        assert abs(index.frame(frame).astype(int) - step["image"]).max() <= 6


def test_a_part_of_a_shard_needs_the_whole_shard(toy):
    data = shard(toy).read_bytes()
    shard(toy).write_bytes(data[: int.from_bytes(data[:8], "little") + 16])
    with pytest.raises(UserError, match=r"1 records, but dataset_info.json says 2"):
        RldsIndex.open(toy, "train[:1]")


@pytest.mark.parametrize(
    "split",
    [
        "",
        "val",
        "train[",
        "train[:9]",
        "train[:200%]",
        "train[3:2]",
        "train+val",
        "train[x]",
        "+",
        "train[2]",
    ],
)
def test_a_split_that_is_not_there(toy, split):
    with pytest.raises(UserError, match="split") as caught:
        RldsIndex.open(toy, split)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train+train", "train[:60%]+train[40%:]", "all+train[4:]"])
def test_an_episode_is_never_there_twice(toy, split):
    with pytest.raises(UserError, match="twice") as caught:
        RldsIndex.open(toy, split)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "success", "failed"),
    [
        (lambda v: None, [1, 0, 1, 0, 1], [0, 1, 0, 1, 0]),
        (lambda v: v.pop("aspects/success"), [0, 0, 1, 0, 1], [0, 0, 0, 1, 0]),
        # Nobody looked at these episodes: then all of RT-1's aspects are false.
        (
            lambda v: v["aspects/has_aspects"].int64_list.value.__setitem__(0, 0),
            [0, 0, 1, 0, 1],
            [0, 0, 0, 1, 0],
        ),
        (
            lambda v: v["aspects/success"].float_list.value.append(1),
            [1, 1, 1, 0, 1],
            [0, 0, 0, 1, 0],
        ),
    ],
    ids=["told", "absent", "not looked at", "as a float"],
)
def test_success_where_the_data_tell(toy, edit, success, failed):
    for number in range(2):
        edit_record(shard(toy), number, edit)
    index = RldsIndex.open(toy)
    assert index.success.tolist() == success
    assert index.failed.tolist() == failed


def finetune():
    return runpy.run_path(str(ROOT / "finetune/rt1.py"), run_name="imported")


def test_training_on_successes_only(toy):
    settings = finetune()["FinetuneConfig"]
    index = RldsIndex.open(toy)
    for successes_only, chosen in ((False, [0, 1, 2, 3, 4]), (True, [0, 2, 4])):
        config = settings(successes_only=successes_only, validation=0.4)
        episodes = choose_episodes(index, config)
        assert episodes == chosen
        training, held_out = split_episodes(episodes, config)
        assert training + held_out == chosen
        assert len(held_out) == round(0.4 * len(chosen))


@pytest.mark.parametrize(
    "options",
    [["--split", "val"], ["--split=train[3:2]"], ["--split", "train[1:2]", "successes_only=true"]],
)
def test_the_command_takes_a_split_and_says_what_is_not_there(toy, tmp_path, capsys, options):
    with pytest.raises(SystemExit) as stop:
        finetune()["main"](
            ["--data", str(toy), *options, "experiment=debug", f"runs_dir={tmp_path / 'runs'}"]
        )
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
