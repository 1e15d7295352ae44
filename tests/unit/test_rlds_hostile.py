"""Data sets that strangers wrote: nothing in them runs, and nothing they claim is believed."""

import io
import json
import runpy
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from selfflow_robotics.data.rlds import index as index_module
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.pictures import decode_picture, picture_size
from selfflow_robotics.data.rlds.tfrecord import masked_crc, read_framing
from selfflow_robotics.errors import UserError
from tests.rlds_sets import edit_record, make_set, shard

ROOT = Path(__file__).parents[2]
IMAGE = "steps/observation/image"
FEATURES = "tensorflow_datasets.core.features"


@pytest.fixture
def toy(tmp_path):
    return make_set(tmp_path, [4, 3, 5])


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A module on the path that leaves a file when it is imported; its name is evilmod."""
    ran = tmp_path / "ran"
    (tmp_path / "evilmod.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass X: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield ran
    assert not ran.exists()


def edit_json(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def refused(toy, words, **options):
    with pytest.raises(UserError) as caught:
        RldsIndex.open(toy, **options)
    assert "\n" not in str(caught.value)
    for word in (words,) if isinstance(words, str) else words:
        assert word in str(caught.value)


def nested(content):
    step = content["featuresDict"]["features"]["steps"]["sequence"]["feature"]
    return step["featuresDict"]["features"]["observation"]["featuresDict"]["features"]["image"]


LEGACY = {"type": "evilmod.X", "content": {}}
HOSTILE_FEATURES = {
    "top": lambda c: c.update(pythonClassName="evilmod.X"),
    "nested": lambda c: nested(c).update(pythonClassName="evilmod.X"),
    "snake": lambda c: (
        nested(c).pop("pythonClassName"),
        nested(c).update(python_class_name="evilmod.X"),
    ),
    "unread feature": lambda c: c["featuresDict"]["features"].update(
        other={"pythonClassName": "evilmod.X", "text": {}}
    ),
    "legacy": lambda c: (c.clear(), c.update(LEGACY)),
    "legacy nested": lambda c: (
        c.clear(),
        c.update(type=f"{FEATURES}.features_dict.FeaturesDict", content={"steps": LEGACY}),
    ),
}


@pytest.mark.parametrize("edit", HOSTILE_FEATURES.values(), ids=HOSTILE_FEATURES.keys())
def test_no_module_that_features_json_names_is_imported(toy, marker, edit):
    edit_json(toy / "features.json", edit)
    refused(toy, ["features.json", "evilmod"])


def test_json_within_json_is_never_unpacked(toy, marker):
    inner = json.dumps({"feature": LEGACY, "length": None})
    other = {
        "pythonClassName": f"{FEATURES}.sequence_feature.Sequence",
        "jsonFeature": {"json": inner},
    }
    edit_json(toy / "features.json", lambda c: c["featuresDict"]["features"].update(other=other))
    assert RldsIndex.open(toy).num_episodes == 3


def test_no_module_that_dataset_info_json_names_is_imported(toy, marker):
    edit_json(
        toy / "dataset_info.json", lambda c: c.update(moduleName="evilmod", configName="evilmod")
    )
    evil = {"provenance": {}, "episodes": [], "type": "evilmod.X", "py/object": "evilmod.X"}
    (toy / "metadata.json").write_text(json.dumps(evil))
    assert RldsIndex.open(toy).num_episodes == 3


@pytest.mark.parametrize("script", ["finetune/rt1.py", "pretrain/run.py"])
def test_the_commands_refuse_it_in_one_line(toy, marker, tmp_path, capsys, script):
    edit_json(toy / "features.json", HOSTILE_FEATURES["nested"])
    main = runpy.run_path(str(ROOT / script), run_name="imported")["main"]
    with pytest.raises(SystemExit) as stop:
        main(["--data", str(toy), "experiment=debug", f"runs_dir={tmp_path / 'runs'}"])
    assert stop.value.code == 2
    assert "evilmod" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "metadata.json"])
@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, "1" * 5000, "", "\ud800", "[[[]]]" * 2],
    ids=["deep", "deep enough", "long number", "empty", "no unicode", "two values"],
)
def test_absurd_json(toy, name, text):
    (toy / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(toy, name)


@pytest.mark.parametrize("value", ["[]", "5", "null", '"x"', '{"splits": 5}', '{"name": []}'])
@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_json_of_another_kind(toy, name, value):
    (toy / name).write_text(value)
    refused(toy, str(toy))


@pytest.mark.parametrize("name", ["../toy", "/toy", "..", "", "a/b", "a\nb", "x y\x1b[2J"])
def test_a_name_is_no_path(toy, name):
    edit_json(toy / "dataset_info.json", lambda content: content.update(name=name))
    refused(toy, "dataset_info.json")


def test_large_json_is_not_read_whole(toy):
    with (toy / "features.json").open("r+b") as file:
        file.truncate(2**36)
    refused(toy, "features.json")


@pytest.mark.parametrize("lengths", [[], ["-1", "2"], ["99999999999999999999"], ["2", "x"]])
def test_absurd_shard_lengths(toy, lengths):
    edit_json(toy / "dataset_info.json", lambda c: c["splits"][0].update(shardLengths=lengths))
    refused(toy, "dataset_info.json")


@pytest.mark.parametrize("length", [2**36, 2**63, 2**64 - 1, 2**30 + 1, 10**6])
def test_lengths_of_records_are_not_believed(toy, length):
    header = struct.pack("<Q", length)
    shard(toy).write_bytes(header + struct.pack("<I", masked_crc(header)) + b"x" * 100)
    refused(toy, "record 0")


def test_a_large_file_is_not_read_whole(toy):
    header = struct.pack("<Q", 2**32)
    with shard(toy).open("wb") as file:
        file.write(header + struct.pack("<I", masked_crc(header)))
        file.truncate(2**32 + 16)
    with pytest.raises(UserError, match="record 0"):
        read_framing(shard(toy))


def png(width, height, bits=8, colour=2, data=b""):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    packed = zlib.compress(data)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def encoded(image, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def jpeg_bomb():
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    return bytes(data)


BAD_PICTURES = {
    "png bomb": png(60_000, 60_000),
    "jpeg bomb": jpeg_bomb(),
    "empty picture": png(0, 5),
    "no header": b"\x89PNG\r\n\x1a\n",
    "half a jpeg header": b"\xff\xd8\xff",
    "16 bits grey": encoded(Image.fromarray(np.full((16, 24), 999, np.uint16)), "PNG"),
    "16 bits colour": png(24, 16, bits=16),
    "cmyk": encoded(Image.new("CMYK", (24, 16)), "JPEG"),
    "gif": encoded(Image.new("RGB", (24, 16)), "GIF"),
    "no bytes": b"",
}


@pytest.mark.parametrize("data", BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
def test_pictures_are_judged_by_their_header_in_the_first_pass(toy, data):
    with pytest.raises(ValueError, match=r"\w"):
        decode_picture(data)
    edit_record(shard(toy), 1, lambda f: f[IMAGE].bytes_list.value.__setitem__(2, data))
    refused(toy, ["record 1", "step 2"])


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), *((mode, "PNG") for mode in ("L", "RGBA", "LA", "P", "1"))]
)
def test_grey_and_other_modes_become_rgb(mode, kind):
    grey = Image.new("L", (24, 16), 255).convert(mode)
    data = encoded(grey, kind)
    assert picture_size(data) == (16, 24)
    np.testing.assert_array_equal(decode_picture(data), np.full((16, 24, 3), 255))


def test_a_picture_that_changes_after_indexing_is_told(toy):
    index = RldsIndex.open(toy)
    data = bytearray(shard(toy).read_bytes())
    data[int(index._offset[5]) + int(index._size[5]) // 2] ^= 4
    shard(toy).write_bytes(data)
    assert index.frame(4).shape == index.frame(6).shape
    with pytest.raises(UserError, match=r"00000-of-00002: episode 1, step 1: .*copy"):
        index.frame(5)
    shard(toy).unlink()
    with pytest.raises(UserError, match="episode 0, step 0"):
        index.frame(0)


def _shift(name, value):
    def edit(tables):
        tables[name] = tables[name].copy()
        tables[name].reshape(-1)[0] = value

    return edit


CRAFTED = {
    "offset": _shift("offset", 2**62),
    "negative offset": _shift("offset", -1),
    "size": _shift("size", 2**31 - 1),
    "shard": _shift("shard", 70_000),
    "instruction": _shift("instruction", -5),
    "length": _shift("episode_length", 2**62),
    "start": _shift("episode_start", 3),
    "not finite": _shift("actions", np.nan),
    "missing": lambda tables: tables.pop("crc"),
    "another type": lambda tables: tables.update(offset=tables["offset"].astype(np.float64)),
    "another shape": lambda tables: tables.update(actions=tables["actions"][:, :5].copy()),
    "text": lambda tables: tables.update(instructions=np.frombuffer(b"[" * 90_000, np.uint8)),
}


@pytest.mark.parametrize("edit", CRAFTED.values(), ids=CRAFTED.keys())
def test_a_crafted_index_is_made_anew(toy, tmp_path, monkeypatch, edit):
    monkeypatch.setenv("SELFFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_module, "CACHE_FROM_BYTES", 0)
    # The checksum is made to fit, as one who crafts a file would.
    monkeypatch.setattr(
        index_module.index_cache, "_checksum", lambda arrays: np.zeros(1, np.uint32)
    )
    first = RldsIndex.open(toy)
    (kept,) = (tmp_path / "cache" / "rlds").iterdir()
    tables = load_file(kept)
    edit(tables)
    save_file(tables, kept)
    again = RldsIndex.open(toy)
    np.testing.assert_array_equal(again.actions, first.actions)
    np.testing.assert_array_equal(again._offset, first._offset)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 8, struct.pack("<Q", 2**40) + b"{}", b"PK\x03\x04" + b"\0" * 50],
    ids=["empty", "huge header", "long header", "zip"],
)
def test_an_index_that_is_no_index_is_made_anew(toy, tmp_path, monkeypatch, data):
    monkeypatch.setenv("SELFFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_module, "CACHE_FROM_BYTES", 0)
    RldsIndex.open(toy)
    (kept,) = (tmp_path / "cache" / "rlds").iterdir()
    kept.write_bytes(data)
    assert RldsIndex.open(toy).num_episodes == 3


def test_a_flipped_bit_in_the_kept_index_is_found(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("SELFFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_module, "CACHE_FROM_BYTES", 0)
    first = RldsIndex.open(toy)
    (kept,) = (tmp_path / "cache" / "rlds").iterdir()
    data = bytearray(kept.read_bytes())
    data[-50] ^= 1
    kept.write_bytes(data)
    again = RldsIndex.open(toy)
    for name in ("actions", "proprio", "_crc", "_offset", "success"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
