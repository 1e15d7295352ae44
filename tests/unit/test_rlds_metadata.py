"""Where the disturbed flags and the provenance come from, and what becomes of damaged JSON."""

import json
import logging
import shutil

import pytest

from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.tfrecord import read_records
from selfflow_robotics.data.rlds.writer import RldsWriter
from selfflow_robotics.errors import UserError
from selfflow_robotics.rollouts.demonstrations import CollectConfig, ensure_demonstrations
from tests.rlds_sets import IMAGE_SIZE, edit_record, make_steps, shard

DISTURBED = [False, True, True, False, True]
PROVENANCE = {"simulator": "tabletop", "renderer": "ray"}
ATTRIBUTES = ("attributes/env_name", "attributes/collection_mode_name")
# One of everything that may be in metadata.json by accident.
ODD = ["", "{", "null", "[]", "3", "{}", '{"provenance": 1}', '{"provenance": {}, "episodes": [3]}']
ODD += ['{"provenance": {}, "episodes": {"0": {}}}', "[" * 100_000, "\ufeff{}", "\x00" * 40]


def record(root, name="toy", provenance=PROVENANCE, seeds=range(5)):
    with RldsWriter(root, name, "0.1.0", IMAGE_SIZE, provenance, 2) as writer:
        for seed, disturbed in zip(seeds, DISTURBED, strict=True):
            told = {"success": True, "disturbed": disturbed, "seed": seed}
            writer.write_episode(make_steps(seed, 3), told)
        return writer.finish()


@pytest.fixture
def recent(tmp_path):
    return record(tmp_path)


@pytest.fixture
def older(tmp_path):
    """As before records carried notes: metadata.json alone knows."""
    directory = record(tmp_path / "older")
    for path in sorted(directory.glob("*.tfrecord-*")):
        for number in range(len(list(read_records(path)))):
            edit_record(path, number, without_note)
    return directory


def without_note(features):
    for key in ATTRIBUTES:
        features[key].bytes_list.value[:] = [b""]


def test_shards_alone_know(recent, caplog):
    (recent / "metadata.json").unlink()
    index = RldsIndex.open(recent)
    assert index.disturbed.tolist() == DISTURBED
    assert index.provenance == {"dataset": "toy", "split": "train", **PROVENANCE}
    assert caplog.messages == []


def test_the_records_have_the_last_word(recent):
    found = json.loads((recent / "metadata.json").read_text())
    found["episodes"] = found["episodes"][:2]
    found["provenance"]["simulator"] = "tablftop"
    (recent / "metadata.json").write_text(json.dumps(found))
    index = RldsIndex.open(recent)
    assert index.disturbed.tolist() == DISTURBED
    assert index.provenance["simulator"] == "tabletop"


def test_older_recordings_are_read(older, caplog):
    index = RldsIndex.open(older)
    assert index.disturbed.tolist() == DISTURBED
    assert index.provenance["simulator"] == "tabletop"
    assert caplog.messages == []


def test_what_nothing_tells_is_said(older, caplog):
    caplog.set_level(logging.WARNING)
    found = json.loads((older / "metadata.json").read_text())
    for episode in found["episodes"]:
        del episode["disturbed"]
    (older / "metadata.json").write_text(json.dumps(found))
    assert not RldsIndex.open(older).disturbed.any()
    assert len(caplog.messages) == 1
    (older / "metadata.json").unlink()
    index = RldsIndex.open(older)
    assert not index.disturbed.any()
    assert index.provenance == {"dataset": "toy", "split": "train"}
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("text", ODD)
def test_odd_metadata_is_refused(recent, older, text):
    for directory in (recent, older):
        (directory / "metadata.json").write_text(text)
        with pytest.raises(UserError, match=r"cannot be read \(metadata.json: .*; copy them again"):
            RldsIndex.open(directory)


@pytest.mark.parametrize(
    ("key", "value"),
    [("control_hz", [3.0]), ("control_hz", "3"), ("control_hz", 10**400), ("dataset", [])],
)
def test_odd_provenance_is_refused(older, tmp_path, key, value):
    found = json.loads((older / "metadata.json").read_text())
    found["provenance"][key] = value
    (older / "metadata.json").write_text(json.dumps(found))
    for directory in (older, record(tmp_path / "noted", provenance={key: value})):
        with pytest.raises(UserError, match=key) as caught:
            RldsIndex.open(directory)
        assert "\n" not in str(caught.value)


def test_an_older_list_that_is_damaged_is_refused(older):
    whole = (older / "metadata.json").read_text()
    for damaged in (
        whole.replace('"disturbed"', '"distursed"', 1),
        whole.replace('"disturbed": true', '"disturbed": 1', 1),
        whole.replace('"episodes"', '"episoder"'),
        json.dumps({**json.loads(whole), "episodes": json.loads(whole)["episodes"][:-1]}),
    ):
        (older / "metadata.json").write_text(damaged)
        with pytest.raises(UserError, match=r"metadata\.json"):
            RldsIndex.open(older)


@pytest.mark.parametrize("key", ["moduleName", "description"])
def test_one_damaged_word_does_not_make_it_anothers(older, key):
    (older / "metadata.json").write_text("{}")
    info = json.loads((older / "dataset_info.json").read_text())
    info[key] = info[key][:-2] + "x"
    (older / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"metadata\.json"):
        RldsIndex.open(older)


@pytest.mark.parametrize("text", ODD)
def test_anothers_metadata_and_words_are_not_ours(older, text):
    def edit(features):
        for key, value in zip(ATTRIBUTES, (text, '{"disturbed": true}'), strict=True):
            features[key].bytes_list.value[:] = [value.encode()]

    info = json.loads((older / "dataset_info.json").read_text())
    info |= {"moduleName": "their.builder", "description": "Theirs."}
    (older / "dataset_info.json").write_text(json.dumps(info))
    (older / "metadata.json").write_text(text)
    edit_record(shard(older), 0, edit)
    index = RldsIndex.open(older)
    assert not index.disturbed.any()
    assert index.provenance == {"dataset": "toy", "split": "train"}


def test_a_shard_of_another_recording_is_refused(recent, tmp_path):
    other = record(tmp_path / "same_provenance", seeds=range(10, 15))
    shutil.copy(shard(other, 1), shard(recent, 1))
    with pytest.raises(UserError, match=r"dataset_info.json says \d+; a shard may belong to"):
        RldsIndex.open(recent)
    other = record(tmp_path / "other", provenance=PROVENANCE | {"renderer": "gl "})
    shutil.copy(shard(other, 1), shard(recent, 1))
    with pytest.raises(UserError, match="come from 2 recordings"):
        RldsIndex.open(recent)


def test_sizes_of_anothers_data_set_are_only_warned_of(recent, caplog):
    info = json.loads((recent / "dataset_info.json").read_text())
    info |= {"moduleName": "their.builder", "description": "Theirs."}
    info["splits"][0]["numBytes"] = "17"
    (recent / "dataset_info.json").write_text(json.dumps(info))
    assert RldsIndex.open(recent).disturbed.tolist() == DISTURBED
    assert len(caplog.messages) == 1
    del info["splits"][0]["numBytes"]  # not told
    (recent / "dataset_info.json").write_text(json.dumps(info))
    assert RldsIndex.open(recent).num_episodes == 5
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "edit", [lambda split: split.pop("shardLengths"), lambda split: split.clear()]
)
def test_missing_shard_lengths(recent, edit):
    info = json.loads((recent / "dataset_info.json").read_text())
    edit(info["splits"][0])
    (recent / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError):
        RldsIndex.open(recent)


@pytest.mark.parametrize("text", [None, *ODD])
def test_a_finished_data_set_with_odd_metadata_is_not_taken_for_granted(tmp_path, text):
    config = CollectConfig(root=str(tmp_path), name="toy", num_episodes=5)
    directory = record(tmp_path)
    (directory / "metadata.json").unlink()
    if text is not None:
        (directory / "metadata.json").write_text(text)
    with pytest.raises(UserError, match=r"metadata\.json"):
        ensure_demonstrations(config)
    with pytest.raises(UserError, match=r"metadata\.json"):
        RldsWriter(tmp_path, "toy", "0.1.0", IMAGE_SIZE, PROVENANCE)
