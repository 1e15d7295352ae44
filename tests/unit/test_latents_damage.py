"""Records and shards of latents that say what is not so: each is one line, and nothing is allocated
by their numbers."""

import hashlib
import json

import numpy as np
import pytest

from selfflow_robotics.data.latents import LatentReader
from selfflow_robotics.errors import UserError
from tests.pictures import write_folder
from tests.unit.test_latents import contents, make


@pytest.fixture
def source(tmp_path):
    """Eleven pictures in three classes: three shards."""
    return write_folder(tmp_path / "set", {"a": 5, "b": 4, "c": 2})


@pytest.fixture
def cache(source, tmp_path):
    make(source, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1}', r"is damaged \('autoencoder'\)"),
        ('{"format": 9}', "has format 9, this version reads format 1"),
        ("[" * 100_000, "is damaged"),
        ('{"format": ' + "9" * 5000 + "}", "is damaged"),
    ],
)
def test_a_damaged_record_is_one_line(source, tmp_path, text, message):
    make(source, tmp_path / "out")
    (tmp_path / "out" / "cache.json").write_text(text)
    for use in (lambda: LatentReader(tmp_path / "out"), lambda: make(source, tmp_path / "out")):
        with pytest.raises(UserError, match=message):
            use()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("image_size",), "32"),
        (("latents",), 5),
        (("latents", "channels"), None),
        (("latents", "size"), -1),
        (("source", "num_classes"), [3]),
        (("autoencoder",), []),
        (("skipped",), {"cut": 3}),
        (("shards",), []),
        (("shards",), {}),
        (("shards", 0), 7),
        (("shards", 1, "rows"), "x"),
        (("shards", 1, "skipped"), {"cut": {"count": "x"}}),
        (("shards", 1, "skipped"), {"cut": {"count": float("inf")}}),
        (("shards", 1, "rows"), 10**18),
        (("shards", 1, "rows"), 10**30),
        (("shards", 1, "bytes"), True),
        (("latents", "channels"), 10**9),
        (("latents", "size"), 10**9),
        (("source", "num_classes"), 10**12),
        (("source", "num_classes"), 0),
        (("source", "class_names"), ["a"]),
        (("labels",), [7]),
        (("labels",), []),
        (("labels",), 3),
    ],
)
def test_a_record_of_other_types_is_one_line(cache, where, value):
    path = cache / "cache.json"
    record = part = json.loads(path.read_text())
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"cache\.json is damaged \(.+\); remove it"):
        LatentReader(cache)


@pytest.mark.parametrize(
    "line", ["5", "[]", "[" * 99999, '{"shard": "x"}', '{"shard": 0, "rows": "x"}']
)
def test_a_journal_of_other_types_is_one_line(cache, source, line):
    (cache / "cache.json").unlink()
    (cache / "encoding.jsonl").write_text("{}\n" + line + "\n")
    with pytest.raises(UserError, match=r"encoding\.jsonl is damaged"):
        make(source, cache)


@pytest.mark.parametrize("number", [-1, 3, 10**18])
def test_a_shard_that_the_list_has_not_is_refused(cache, source, number):
    (cache / "cache.json").rename(cache / "old.json")
    record = json.loads((cache / "old.json").read_text())
    shards = record.pop("shards")
    lines = [record, {"shard": number, **shards[0]}]
    (cache / "encoding.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=f"records shard {number}"):
        make(source, cache)


def test_a_list_of_shards_that_was_cut_short_is_completed(cache, source):
    before = contents(cache)
    record = json.loads((cache / "cache.json").read_text())
    record["shards"].pop()
    (cache / "cache.json").write_text(json.dumps(record))
    assert make(source, cache).num_new == 3
    assert contents(cache) == before


def rewrite_shard(cache, number, change):
    """Another shard, whose size and checksum the record vouches for."""
    path = cache / f"shard-{number:05d}.npy"
    np.save(path, change(np.load(path)))
    record = json.loads((cache / "cache.json").read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record["shards"][number] |= {"bytes": path.stat().st_size, "sha256": digest}
    (cache / "cache.json").write_text(json.dumps(record))


def test_labels_beyond_the_classes_are_one_line(cache):
    def beyond(rows):
        rows["label"][1] = 3
        return rows

    rewrite_shard(cache, 0, beyond)
    reader = LatentReader(cache)
    reader.read([0, 4])
    with pytest.raises(UserError, match="labels outside 0 to 2"):
        reader.read([1])


@pytest.mark.parametrize(
    "change", [lambda rows: rows[None], lambda rows: rows["mean"], lambda rows: rows[:2]]
)
def test_a_shard_of_other_rows_is_one_line(cache, change):
    rewrite_shard(cache, 0, lambda rows: np.concatenate([change(rows)] * 4))
    with pytest.raises(UserError, match="do not match cache"):
        LatentReader(cache).read([0])
