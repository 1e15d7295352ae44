"""Recording: the files are RT-1's, and an interrupted recording goes on where it stopped."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.schema import fractal_features
from selfflow_robotics.data.rlds.writer import RldsWriter
from selfflow_robotics.errors import UserError
from tests.rlds_sets import GOLDEN_SET, IMAGE_SIZE, make_set, make_steps, shard

PROVENANCE = {"simulator": "none", "versions": (1, 2)}


def open_writer(root, **changes):
    options = {
        "name": "toy",
        "version": "0.1.0",
        "image_size": IMAGE_SIZE,
        "provenance": PROVENANCE,
        "episodes_per_shard": 2,
    }
    return RldsWriter(root, **(options | changes))


def append(writer, *episodes):
    for episode in episodes:
        steps = make_steps(episode, 3)
        writer.write_episode(steps, {"success": episode % 2 == 0, "seed": episode})


def test_features_are_rt1s(tmp_path):
    fractal_features().save_config(tmp_path)
    ours = json.loads((tmp_path / "features.json").read_text())
    assert ours == json.loads((GOLDEN_SET / "features.json").read_text())


def test_files_of_a_finished_set(tmp_path):
    directory = make_set(tmp_path, [3, 2, 4])
    assert directory == tmp_path / "toy" / "0.1.0"
    assert sorted(path.name for path in directory.iterdir()) == [
        "dataset_info.json",
        "features.json",
        "metadata.json",
        "toy-train.tfrecord-00000-of-00002",
        "toy-train.tfrecord-00001-of-00002",
    ]
    info = json.loads((directory / "dataset_info.json").read_text())
    golden = json.loads((GOLDEN_SET / "dataset_info.json").read_text())
    assert info.keys() == golden.keys()
    assert info["splits"][0]["shardLengths"] == ["2", "1"]
    size = sum(path.stat().st_size for path in directory.glob("*.tfrecord-*"))
    assert int(info["splits"][0]["numBytes"]) == size - 3 * 16
    metadata = json.loads((directory / "metadata.json").read_text())
    assert metadata["episodes"][1] == {"success": False, "seed": 1}


@pytest.mark.parametrize(("height", "full_colour"), [(64, True), (256, False)])
def test_small_pictures_keep_their_colour_resolution(tmp_path, height, full_colour):
    steps = make_steps(0, 2)
    for step in steps:
        step["image"] = np.zeros((height, 80, 3), np.uint8)
    with open_writer(tmp_path, image_size=(height, 80)) as writer:
        writer.write_episode(steps, {"success": True})
        index = RldsIndex.open(writer.finish())
    subsampling = simplejpeg.decode_jpeg_header(index.encoded_frame(0))[3]
    assert subsampling == ("444" if full_colour else "420")


def test_goes_on_after_an_orderly_stop(tmp_path):
    with open_writer(tmp_path) as writer:
        append(writer, 0, 1, 2)
        assert writer.episodes_done == 3
    with pytest.raises(UserError, match=r"dataset_info.json is missing"):
        RldsIndex.open(tmp_path / "toy" / "0.1.0")
    with open_writer(tmp_path) as writer:
        assert writer.episodes_done == 3
        assert [episode["seed"] for episode in writer.episodes] == [0, 1, 2]
        append(writer, 3, 4)
        index = RldsIndex.open(writer.finish())
    whole = RldsIndex.open(make_set(tmp_path, [3] * 5, name="whole"))
    np.testing.assert_array_equal(index.actions, whole.actions)
    np.testing.assert_array_equal(index.proprio, whole.proprio)
    assert all((index.frame(i) == whole.frame(i)).all() for i in range(15))


def test_an_exception_loses_no_episode(tmp_path):
    def interrupted():
        with open_writer(tmp_path) as writer:
            append(writer, 0, 1, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with open_writer(tmp_path) as writer:
        assert writer.episodes_done == 3


def test_a_full_disk_is_one_line_and_loses_no_finished_shard(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = open_writer(tmp_path)
    append(writer, 0, 1)
    monkeypatch.setattr("selfflow_robotics.data.rlds.writer.write_record", full)
    with pytest.raises(UserError, match=r"cannot write to .*\(No space left on device\); free"):
        append(writer, 2)
    writer.close()
    with open_writer(tmp_path) as writer:
        assert writer.episodes_done == 2


def test_a_killed_process_loses_no_episode(tmp_path):
    writer = open_writer(tmp_path)
    append(writer, 0, 1, 2)  # and is never closed
    shutil.copytree(writer.path, tmp_path / "copy" / "toy" / "0.1.0")
    with open_writer(tmp_path / "copy") as other:
        assert other.episodes == writer.episodes
        assert other.episodes_done == 3
    writer.close()


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_a_record_cut_short_is_recorded_again(tmp_path, keep):
    whole = record_whole(tmp_path / "whole")
    with open_writer(tmp_path) as writer:
        append(writer, 0, 1, 2)
    path = shard(writer.path, 1)
    path.write_bytes(path.read_bytes()[:keep])
    with open_writer(tmp_path) as writer:
        assert writer.episodes_done == 2
        append(writer, 2, 3, 4)
        assert contents(writer.finish()) == whole


def record_whole(root):
    with open_writer(root) as writer:
        append(writer, *range(5))
        return contents(writer.finish())


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_interruptions_leave_no_trace_in_the_files(tmp_path, monkeypatch):
    whole = record_whole(tmp_path / "whole")
    for episode in range(5):
        with open_writer(tmp_path) as writer:
            append(writer, episode)
    for name in ("replace", "rmdir"):  # finishing is interrupted too
        with monkeypatch.context() as patch, open_writer(tmp_path) as writer:
            patch.setattr(Path, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                writer.finish()
    with open_writer(tmp_path) as writer:
        left = writer.path / "info.unfinished"  # a killed write of TensorFlow Datasets' own
        left.mkdir(exist_ok=True)
        (left / "features.json.incomplete").write_text("{")
        assert contents(writer.finish()) == whole


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_interrupted_finish_is_taken_up(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RldsWriter, "_write_info", fail)  # the shards have their final names by then
        with pytest.raises(KeyboardInterrupt):
            make_set(tmp_path, [3] * 3)
    with RldsWriter(tmp_path, "toy", "0.1.0", IMAGE_SIZE, {"simulator": "none"}, 2) as writer:
        assert writer.episodes_done == 3
        append(writer, 3, 4)
        directory = writer.finish()
    assert RldsIndex.open(directory).num_episodes == 5
    assert len(list(directory.glob("*.tfrecord-*"))) == 3


def test_a_finished_set_is_recognised_and_closed(tmp_path):
    with open_writer(tmp_path) as writer:
        append(writer, 0, 1, 2)
        writer.finish()
    with open_writer(tmp_path) as writer:
        assert writer.finished
        assert writer.episodes_done == 3
        assert writer.finish() == writer.path
        with pytest.raises(UserError, match="finished data set"):
            append(writer, 3)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"provenance": {"simulator": "other"}}, r"provenance \(simulator \w+, now other\)"),
        ({"image_size": (32, 24)}, "image size"),
        ({"jpeg_quality": 50}, "jpeg quality"),
    ],
)
def test_another_recording_is_refused(tmp_path, finished, change, what):
    with open_writer(tmp_path) as writer:
        append(writer, 0)
        if finished:
            writer.finish()
    with pytest.raises(UserError, match=f"recorded with a different {what}"):
        open_writer(tmp_path, **change)


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "toy" / "0.1.0").mkdir(parents=True)
    (tmp_path / "toy" / "0.1.0" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="contains other files"):
        open_writer(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged"),
        (lambda path: path.write_bytes(b""), "has 0 episodes, not 2"),
        (lambda path: path.write_bytes(path.read_bytes() * 2), "has 4 episodes, not 2"),
        (lambda path: path.unlink(), "shards are missing or duplicated"),
        (lambda path: shutil.copy(path, f"{path}-of-00002"), "shards are missing or duplicated"),
        (lambda path: shutil.copy(shard(GOLDEN_SET), path), "does not identify its recording"),
        (lambda path: shutil.copy(shard(make_set(path.parents[3], [3, 3])), path), "another"),
    ],
)
def test_a_shard_that_is_not_what_was_recorded_is_refused(tmp_path, damage, message):
    root = tmp_path / "recording"
    with open_writer(root) as writer:
        append(writer, 0, 1, 2)
    damage(shard(writer.path))
    with pytest.raises(UserError, match=message):
        open_writer(root)


@pytest.mark.parametrize("text", ["", "[]", '{"provenance": {}}', '{"episodes": [1]}', "[" * 10**5])
@pytest.mark.parametrize("name", ["recording.json", "shard-00000.json", "metadata.json"])
def test_stray_notes_do_not_matter_while_recording(tmp_path, name, text):
    with open_writer(tmp_path) as writer:
        append(writer, 0)
    (writer.path / name).write_text(text)
    with open_writer(tmp_path) as writer:
        assert writer.episodes_done == 1


def test_one_writer_at_a_time(tmp_path):
    with open_writer(tmp_path), pytest.raises(UserError, match="another process"):
        open_writer(tmp_path)
    open_writer(tmp_path).close()


def test_an_empty_set_is_not_finished(tmp_path):
    with (
        open_writer(tmp_path) as writer,
        pytest.raises(UserError, match="no episodes were recorded"),
    ):
        writer.finish()


@pytest.mark.parametrize(
    "change", [{"name": "Toy-Set"}, {"name": "../up"}, {"version": "1"}, {"version": "0.1.0/.."}]
)
def test_bad_names(tmp_path, change):
    with pytest.raises(UserError, match="data set"):
        open_writer(tmp_path, **change)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((8, 8, 3), np.uint8)}, "step 1: image must be"),
        ({"image": np.zeros((*IMAGE_SIZE, 3))}, "step 1: image must be"),
        ({"proprio": np.zeros(7)}, "step 1: proprio must be 8"),
        ({"world_vector": [0, np.nan, 0]}, "step 1: world_vector must be 3 finite"),
    ],
)
def test_bad_steps_are_refused_and_leave_no_trace(tmp_path, change, message):
    steps = make_steps(0, 3)
    steps[1] |= change
    with open_writer(tmp_path) as writer:
        with pytest.raises(ValueError, match=message):
            writer.write_episode(steps, {"success": True})
        with pytest.raises(ValueError, match="at least two steps"):
            writer.write_episode(make_steps(0, 1), {"success": True})
        append(writer, 0)
        assert RldsIndex.open(writer.finish()).num_episodes == 1
