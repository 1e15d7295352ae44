"""Reading RT-1 data: what TensorFlow Datasets wrote comes back, and damage is told in one line."""

import hashlib
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from selfflow_robotics.data.rlds import index as index_module
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.survey import survey
from selfflow_robotics.data.rlds.tfrecord import write_record
from selfflow_robotics.errors import UserError
from tests.rlds_sets import GOLDEN, GOLDEN_SET, IMAGE_SIZE, edit_record, make_set, make_steps, shard

IMAGE = "steps/observation/image"


@pytest.fixture
def toy(tmp_path):
    """Five episodes in three shards."""
    return make_set(tmp_path, [4, 3, 5, 2, 6])


def refuses(directory, message, **options):
    with pytest.raises(UserError, match=message) as caught:
        RldsIndex.open(directory, **options)
    assert "\n" not in str(caught.value)


def test_reads_what_tensorflow_datasets_wrote():
    expected = json.loads((GOLDEN / "expected.json").read_text())
    index = RldsIndex.open(GOLDEN_SET)
    assert index.num_episodes == 1
    assert index.image_size == (256, 320)
    assert index.provenance == {"dataset": "simpler_pick_coke_can", "split": "train"}
    assert index.success.tolist() == [True]
    assert index.instruction_of(0) == expected["instruction"]
    arm = np.concatenate([expected["world_vector"], expected["rotation_delta"]], 1)
    np.testing.assert_array_equal(index.actions[:, :6], arm.astype(np.float32))
    proprio = np.column_stack([expected["tool"], expected["closed"]])
    np.testing.assert_array_equal(index.proprio, proprio.astype(np.float32))
    hashes = [hashlib.sha256(index.frame(i)).hexdigest() for i in range(index.num_frames)]
    assert hashes == expected["image_sha256_tf_default_decode"]


def test_what_was_written_is_read(toy):
    index = RldsIndex.open(toy)
    assert index.episode_length.tolist() == [4, 3, 5, 2, 6]
    assert index.episode_start.tolist() == [0, 4, 7, 12, 14]
    assert index.success.tolist() == [True, False, True, False, True]
    assert index.provenance["simulator"] == "none"
    assert index.episode_of(np.array([0, 3, 4, 19])).tolist() == [0, 0, 1, 4]
    for episode, start in enumerate(index.episode_start):
        for t, step in enumerate(make_steps(episode, index.episode_length[episode])):
            frame = start + t
            np.testing.assert_array_equal(index.proprio[frame], np.float32(step["proprio"]))
            np.testing.assert_array_equal(
                index.actions[frame, :3], np.float32(step["world_vector"])
            )
            difference = index.frame(frame).astype(int) - step["image"]
            assert abs(difference).max() <= 6
    assert (index.num_frames, index.num_episodes) == (20, 5)


@pytest.mark.parametrize("text", ["", "nimm die Dose — 可乐"])
def test_any_words(toy, text):
    def edit(features):
        values = features["steps/observation/natural_language_instruction"].bytes_list.value
        values[:] = [text.encode()] * len(values)

    edit_record(shard(toy), 1, edit)
    index = RldsIndex.open(toy)
    assert [index.instruction_of(frame) for frame in (3, 4, 7)] == [
        "pick coke can",
        text,
        "pick coke can",
    ]


def test_flipped_bit(toy):
    data = bytearray(shard(toy, 1).read_bytes())
    data[len(data) // 4] ^= 1
    shard(toy, 1).write_bytes(data)
    refuses(toy, "00001-of-00003: record 0 .* is damaged")


def test_flipped_bit_in_a_length(toy):
    data = bytearray(shard(toy).read_bytes())
    data[1] ^= 1
    shard(toy).write_bytes(data)
    refuses(toy, "00000-of-00003: record 0 .* damaged length", verify="length")


def test_truncated_shard(toy):
    shard(toy, 2).write_bytes(shard(toy, 2).read_bytes()[:-10])
    refuses(toy, "00002-of-00003: record 0 .* cut short", verify="length")


def test_shard_cut_between_records(toy):
    data = shard(toy).read_bytes()
    first = int.from_bytes(data[:8], "little") + 16
    shard(toy).write_bytes(data[:first])
    refuses(toy, "00000-of-00003: 1 records, but dataset_info.json says 2")


def test_empty_shard(toy):
    shard(toy).write_bytes(b"")
    refuses(toy, "0 records, but dataset_info.json says 2")


def test_missing_shard(toy):
    shard(toy, 1).unlink()
    refuses(toy, "1 of 3 shards missing, first toy-train.tfrecord-00001-of-00003")


def test_wrong_shard_lengths(toy):
    path = toy / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"] = ["2", "3", "1"]
    path.write_text(json.dumps(info))
    refuses(toy, "00001-of-00003: 2 records, but dataset_info.json says 3")


def test_unfinished_set(toy):
    (toy / "dataset_info.json").unlink()
    refuses(toy, "dataset_info.json is missing")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "metadata.json"])
def test_damaged_json(toy, name):
    (toy / name).write_text('{"half":')
    refuses(toy, "JSON files cannot be read")


def test_unknown_split(toy):
    refuses(toy, "no split 'val' .*; available: train", split="val")


@pytest.mark.parametrize("key", [IMAGE, "steps/action/world_vector"])
def test_missing_key(toy, key):
    edit_record(shard(toy), 1, lambda features: features.pop(key))
    refuses(toy, f"record 1 .* lacks '{key}'")


def test_unknown_keys_are_ignored(toy):
    edit_record(shard(toy), 0, lambda features: features["session_pb"].int64_list.value.append(1))
    assert RldsIndex.open(toy).num_episodes == 5


def test_wrong_number_of_values(toy):
    edit_record(
        shard(toy),
        0,
        lambda features: features["steps/action/rotation_delta"].float_list.value.pop(),
    )
    refuses(toy, "'steps/action/rotation_delta' has 11 values, expected 12")


def test_record_that_is_no_example(toy):
    with shard(toy, 2).open("wb") as file:
        write_record(file, b"\xff" * 40)
    refuses(toy, "not a tf.train.Example")


@pytest.mark.parametrize("key", ["world_vector", "gripper_closedness_action"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_leave_the_episode_out(toy, key, value):
    def edit(features):
        features[f"steps/action/{key}"].float_list.value[2] = value
        features["steps/observation/orientation_box"].float_list.value[0] = value  # not read

    edit_record(shard(toy), 0, edit)
    index = RldsIndex.open(toy)
    assert index.episode_length.tolist() == [3, 5, 2, 6]
    assert {cause: n for cause, n in index.left_out.items() if n} == {"numbers not finite": 1}
    assert np.isfinite(index.actions).all()


@pytest.mark.parametrize("length", [0, 1])
def test_degenerate_episodes_are_left_out(toy, length):
    def edit(features):
        for key, feature in features.items():
            if key.startswith("steps/"):
                values = getattr(feature, feature.WhichOneof("kind")).value
                del values[length * (len(values) // 3) :]  # the episode has three steps

    edit_record(shard(toy), 1, edit)
    index = RldsIndex.open(toy)
    assert index.episode_length.tolist() == [4, 5, 2, 6]
    assert index.left_out["shorter than two steps"] == 1
    assert index.frame(4).shape == (*IMAGE_SIZE, 3)


def test_an_instruction_that_is_no_text_leaves_the_episode_out(toy):
    def edit(features):
        words = features["steps/observation/natural_language_instruction"].bytes_list.value
        words[1] = b"pick \xffcoke can"

    edit_record(shard(toy), 0, edit)
    index = RldsIndex.open(toy)
    assert index.episode_length.tolist() == [3, 5, 2, 6]
    assert index.left_out["instruction not UTF-8"] == 1
    assert index.instructions == ["pick coke can"]
    (fault,) = survey(toy, frames="none").faults
    assert (fault.kind, fault.cause) == ("episode", "instruction not UTF-8")


def test_nothing_but_degenerate_episodes(tmp_path):
    toy = make_set(tmp_path, [2])
    edit_record(
        shard(toy),
        0,
        lambda f: f["steps/action/world_vector"].float_list.value.__setitem__(0, np.inf),
    )
    refuses(toy, "1 numbers not finite")


def test_damaged_picture(toy):
    def edit(features):
        values = features[IMAGE].bytes_list.value
        values[2] = values[2][:-50]

    edit_record(shard(toy), 1, edit)
    index = RldsIndex.open(toy)
    assert index.frame(5).shape == (*IMAGE_SIZE, 3)
    with pytest.raises(UserError, match="00000-of-00003: episode 1, step 2: damaged image"):
        index.frame(6)


def test_picture_of_another_size(toy):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "JPEG")

    def edit(features):
        features[IMAGE].bytes_list.value[1] = buffer.getvalue()

    edit_record(shard(toy), 0, edit)
    with pytest.raises(UserError, match=r"record 0 .*, step 1: the image size is \(20, 30\)"):
        RldsIndex.open(toy)


def test_pictures_of_an_unknown_kind(toy):
    edit_record(
        shard(toy), 1, lambda f: f[IMAGE].bytes_list.value.__setitem__(1, b"GIF89a not supported")
    )
    refuses(toy, "record 1 .*, step 1: .*neither JPEG nor PNG")


def test_png_pictures_and_equal_neighbours(toy):
    """PNG is TensorFlow Datasets' default; equal pictures must be found one after another."""
    image = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")

    def edit(features):
        values = features[IMAGE].bytes_list.value
        values[0] = values[1] = buffer.getvalue()

    edit_record(shard(toy), 0, edit)
    index = RldsIndex.open(toy)
    for frame in (0, 1):
        np.testing.assert_array_equal(index.frame(frame), image)
    assert index._offset[1] > index._offset[0]


def test_the_index_is_found_again_in_a_copy(toy, tmp_path, monkeypatch):
    """It belongs to the content: neither the path nor the time of the files matters."""
    monkeypatch.setenv("SELFFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_module, "CACHE_FROM_BYTES", 0)
    first = RldsIndex.open(toy)
    copy = shutil.copytree(toy, tmp_path / "elsewhere" / "9.9.9", copy_function=shutil.copyfile)
    shutil.rmtree(toy)
    with monkeypatch.context() as patch:
        patch.setattr(index_module, "scan_shards", None)  # a second scan would fail
        again = RldsIndex.open(copy)
    assert again.fingerprint == first.fingerprint
    assert again.frame(19).shape == (*IMAGE_SIZE, 3)


def test_index_is_kept_and_renewed_when_the_data_change(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("SELFFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_module, "CACHE_FROM_BYTES", 0)
    first = RldsIndex.open(toy)
    (kept,) = (tmp_path / "cache" / "rlds").iterdir()

    with monkeypatch.context() as patch:
        patch.setattr(index_module, "scan_shards", None)  # a second scan would fail
        again = RldsIndex.open(toy)
    for key in ("actions", "proprio", "episode_start", "episode_length", "success", "_offset"):
        np.testing.assert_array_equal(getattr(again, key), getattr(first, key))
    assert again.instruction_of(0) == first.instruction_of(0)
    np.testing.assert_array_equal(again.frame(19), first.frame(19))

    kept.write_bytes(kept.read_bytes()[:100])  # a damaged cache is made anew
    assert RldsIndex.open(toy).num_frames == 20

    edit_record(shard(toy, 1), 0, lambda f: f["session_pb"].int64_list.value.append(1))
    RldsIndex.open(toy)
    assert len(list(kept.parent.iterdir())) == 2
    RldsIndex.open(toy, verify="length")
    assert len(list(kept.parent.iterdir())) == 3
    RldsIndex.open(toy, split="train[1:]")
    assert len(list(kept.parent.iterdir())) == 4


def test_any_number_of_processes_makes_the_same_index(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "CACHE_FROM_BYTES", 0)
    kept = []
    for processes in (1, 2, 3):
        monkeypatch.setenv("SELFFLOW_CACHE", str(tmp_path / f"{processes}"))
        RldsIndex.open(toy, processes=processes)
        kept += [path.read_bytes() for path in (tmp_path / f"{processes}" / "rlds").iterdir()]
    assert kept[0] == kept[1] == kept[2]


def test_the_first_damage_is_told_whichever_process_finds_it(toy):
    for number in (2, 1):
        edit_record(shard(toy, number), 0, lambda features: features.pop(IMAGE))
    refuses(toy, f"00001-of-00003: record 0 .* lacks '{IMAGE}'", processes=3)


def test_shards_of_two_image_sizes(toy):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "JPEG")

    def edit(features):
        values = features[IMAGE].bytes_list.value
        values[:] = [buffer.getvalue()] * len(values)

    edit_record(shard(toy, 2), 0, edit)
    for processes in (1, 2):
        refuses(toy, r"00002-of-00003: the image size is \(20, 30\)", processes=processes)


def test_small_sets_leave_nothing_in_the_cache(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("SELFFLOW_CACHE", str(tmp_path / "cache"))
    RldsIndex.open(toy)
    assert not (tmp_path / "cache").exists()


def test_an_unwritable_cache_does_no_harm(toy, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("SELFFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_module, "CACHE_FROM_BYTES", 0)
    assert RldsIndex.open(toy).num_frames == 20


def test_reading_and_writing_load_no_tensorflow(tmp_path):
    code = f"""
import sys
from pathlib import Path
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.windows import WindowReader
from tests.rlds_sets import make_set
directory = make_set(Path({str(tmp_path)!r}), [3, 4])
WindowReader(RldsIndex.open(directory), image_size=(8, 12)).read([0, 6])
print("tensorflow" in sys.modules, "torch" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]
