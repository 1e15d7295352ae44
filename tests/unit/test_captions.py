"""Images with captions: what is listed, what the cache keeps, and what is drawn from it."""

import json
from collections import Counter

import pytest

from selfflow_robotics.autoencoders.latent import PixelLatents
from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.data.captions import MOST_BYTES, draw_captions, parse_captions
from selfflow_robotics.data.images import list_images
from selfflow_robotics.data.images_decode import decode_picture
from selfflow_robotics.data.latents import LatentReader
from selfflow_robotics.data.latents_encode import Encoding, Workers
from selfflow_robotics.data.latents_writer import write_latents
from selfflow_robotics.data.skips import Unusable
from selfflow_robotics.errors import UserError
from tests.pictures import picture_bytes, write_tar

FILES = {
    "a.png": picture_bytes(0), "a.txt": b"a cat\n\n  two   cats \n",
    "b/c.jpg": picture_bytes(1, "jpg"), "b/c.json": b'["a dog", "dogs"]',
    "d.png": picture_bytes(2), "d.txt": b"both", "d.json": b'{"width": 3}',
    "e.v2.png": picture_bytes(3), "e.v2.txt": b"dotted", "note.md": b"x",
}  # fmt: skip
CAPTIONS = {"a.png": ("a cat", "two cats"), "b/c.jpg": ("a dog", "dogs"), "d.png": ("both",),
            "e.v2.png": ("dotted",)}  # fmt: skip
BAD = {
    "none.png": picture_bytes(4), "empty.png": picture_bytes(5), "empty.txt": b" \n\t\n",
    "list.png": picture_bytes(6), "list.json": b'{"caption": "x"}',
    "latin.png": picture_bytes(7), "latin.txt": b"caf\xe9",
}  # fmt: skip
CAUSES = {"no caption": 1, "empty caption": 1, "bad caption file": 2}


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture(params=["folder", "tar"])
def store(request, tmp_path):
    """files -> a folder or a tar with them."""

    def make(files):
        if request.param == "tar":
            return write_tar(tmp_path / "set.tar", files)
        return write(tmp_path / "set", files)

    return make


def test_captions_are_read_from_folders_and_tars(store):
    images = list_images(store(FILES), captioned=True)
    assert {item.name.removeprefix("set.tar/"): item.captions for item in images.items} == CAPTIONS
    assert images.skips.total == 0
    assert (images.num_classes, images.labels) == (1, {0})
    assert images.record()["captions"]


def test_images_without_captions_are_counted(store):
    images = list_images(store(FILES | BAD), captioned=True)
    assert len(images) == 4
    assert images.skips.counts == CAUSES
    assert images.num_found == 8


def test_without_any_caption_it_is_one_line(store):
    with pytest.raises(UserError, match=r"captions \(1 bad .*1 empty .*1 no caption.*NAME\.txt"):
        list_images(store({k: v for k, v in BAD.items() if "latin" not in k}), captioned=True)


def test_labelled_sets_ignore_captions(tmp_path):
    files = {"x/a.png": picture_bytes(0), "x/a.txt": b"one", "y/b.png": picture_bytes(1)}
    images = list_images(write(tmp_path, files))
    assert [item.label for item in images.items] == [0, 1]
    assert not images.captioned
    before = images.fingerprint()
    (tmp_path / "x/a.txt").write_bytes(b"other")
    assert list_images(tmp_path).fingerprint() == before


def test_the_fingerprint_is_of_the_captions_too(tmp_path):
    root = write(tmp_path, FILES)
    before = list_images(root, captioned=True).fingerprint()
    (root / "a.txt").write_bytes(b"a cow")
    assert list_images(root, captioned=True).fingerprint() != before


@pytest.mark.parametrize(
    ("suffix", "data", "found"),
    [
        (".txt", "\ufeffone\r\ntwo".encode(), ("one", "two")),
        (".json", b'["one", "", "t  wo"]', ("one", "t wo")),
        (".txt", b"", "empty caption"),
        (".json", b"[]", "empty caption"),
        (".json", b'["a", 3]', "bad caption file"),
        (".json", b'"a"', "bad caption file"),
        (".json", b'["\\ud800"]', "bad caption file"),
        (".json", b"[" * 60_000 + b"]", "bad caption file"),
        (".txt", b"x" * (MOST_BYTES + 1), "caption file too large"),
    ],
)
def test_a_caption_file_is_read_or_its_cause_is_named(suffix, data, found):
    if isinstance(found, tuple):
        assert parse_captions(suffix, data) == found
    else:
        with pytest.raises(Unusable, match=found):
            parse_captions(suffix, data)


def encode(source, folder, size=(6, 10), shard_size=2, **settings):
    return write_latents(
        list_images(source, captioned=True),
        folder,
        PixelLatents(),
        Workers(AutoencoderConfig("pixel")),
        Encoding(size, **settings),
        max_skipped=0.5,
        shard_size=shard_size,
    )


@pytest.fixture
def cache(tmp_path):
    """Of five images in shards of two, the third of them cut."""
    cut = {"aa.png": picture_bytes(9)[:-40], "aa.txt": b"cut"}
    summary = encode(write(tmp_path / "set", FILES | cut), tmp_path / "out")
    assert (summary.num_pictures, summary.skips.total) == (4, 1)
    return tmp_path / "out"


def test_the_cache_keeps_the_captions_of_its_rows(cache):
    reader = LatentReader(cache)
    assert reader.captioned
    assert (reader.image_size, reader.latent_size) == ((6, 10), (6, 10))
    assert reader.read([0]).mean.shape == (1, 3, 6, 10)
    order = ["a.png", "d.png", "e.v2.png", "b/c.jpg"]
    assert reader.captions([3, 0, 0]) == [CAPTIONS[order[row]] for row in (3, 0, 0)]
    assert reader.all_captions() == {text for row in CAPTIONS.values() for text in row}
    with pytest.raises(IndexError):
        reader.captions([4])


def test_lost_captions_are_made_again_and_damaged_ones_named(cache, tmp_path):
    path = cache / "shard-00001.jsonl"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=r"shard-00001\.jsonl is missing"):
        LatentReader(cache)
    assert encode(tmp_path / "set", cache).num_new == 2
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b"dotted", b"potted"))
    with pytest.raises(UserError, match=r"shard-00001\.jsonl is damaged"):
        LatentReader(cache).all_captions()
    with pytest.raises(UserError, match=r"shard-00001\.jsonl is damaged"):
        encode(tmp_path / "set", cache)


def test_mirrored_rows_have_the_captions_of_their_images(tmp_path):
    encode(write(tmp_path / "set", FILES), tmp_path / "out", mirror=True)
    rows = LatentReader(tmp_path / "out").captions(range(8))
    assert rows[::2] == rows[1::2]
    assert set(rows) == set(CAPTIONS.values())


@pytest.mark.parametrize("claim", [{"captions": False}, {"captions": "yes"}])
def test_a_record_that_contradicts_its_shards_is_damaged(cache, claim):
    path = cache / "cache.json"
    record = json.loads(path.read_text())
    record["source"] |= claim
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="is damaged"):
        LatentReader(cache)


def test_a_visit_draws_each_caption_as_often_and_again_the_same():
    captions = [("a", "b", "c", "d"), ("x",)]
    drawn = Counter()
    for step in range(400):
        one, other = draw_captions(captions, [0, 1], 2, seed=0, step=step)
        assert other == "x"
        assert [one, other] == draw_captions(captions, [0, 1], 2, seed=0, step=step)
        assert [one] == draw_captions(captions[:1], [0], 2, seed=0, step=step)  # a process's part
        drawn[one] += 1
    assert set(drawn) == {*"abcd"}
    assert min(drawn.values()) > 60


def test_a_size_that_is_no_square_is_covered_and_cropped():
    tall = decode_picture(picture_bytes(0, size=(10, 40)), (10, 20))
    assert tall.shape == (10, 20, 3)
    exact = decode_picture(picture_bytes(0, size=(20, 10)), (10, 20))
    assert (decode_picture(picture_bytes(0, size=(20, 10)), [10, 20]) == exact).all()
    halved = decode_picture(picture_bytes(0, size=(80, 30)), (10, 20))
    assert halved.shape == (10, 20, 3)
