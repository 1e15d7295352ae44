"""The latent cache: what it holds, that it depends on the pictures alone, and every damage."""

import errno
import json

import numpy as np
import pytest
import torch

from selfflow_robotics.autoencoders.latent import PixelLatents
from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.data.images import list_images
from selfflow_robotics.data.images_decode import decode_picture
from selfflow_robotics.data.latents import LatentReader, sample_posterior
from selfflow_robotics.data.latents_encode import Encoding, Workers
from selfflow_robotics.data.latents_writer import write_latents
from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import torch_generator
from tests.pictures import picture_bytes, samples, write_folder, write_tar

SIZE = 8


def make(source, folder, autoencoder=None, processes=1, shard_size=4, max_skipped=0.2, **encoding):
    pixel = AutoencoderConfig("pixel")
    return write_latents(
        list_images(source),
        folder,
        autoencoder or PixelLatents(),
        Workers(pixel, processes),
        Encoding(**{"image_size": SIZE, "batch_size": 3, **encoding}),
        max_skipped=max_skipped,
        shard_size=shard_size,
    )


def contents(folder):
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    assert "cache.json" in files
    return files


@pytest.fixture
def source(tmp_path):
    """Eleven pictures, one of them cut, in three classes."""
    root = write_folder(tmp_path / "set", {"a": 5, "b": 4, "c": 2})
    (root / "b" / "006.png").write_bytes(picture_bytes(6)[:-40])
    return root


def test_rows_are_the_encoded_pictures_in_order(source, tmp_path):
    summary = make(source, tmp_path / "out")
    assert (summary.num_pictures, summary.num_new, summary.skips.total) == (10, 11, 1)
    reader = LatentReader(tmp_path / "out")
    assert (len(reader), reader.num_classes) == (10, 3)
    assert (reader.channels, reader.latent_size) == (3, (SIZE, SIZE))
    assert reader.image_size == (SIZE, SIZE)
    assert reader.class_names == ["a", "b", "c"]
    order = [9, 0, 5, 5, 3]
    mean, std, labels = reader.read(order)
    numbers = [n for n in range(11) if n != 6]
    kept = [decode_picture(picture_bytes(numbers[row]), SIZE) for row in order]
    expected, _ = PixelLatents().encode(torch.from_numpy(np.stack(kept)))
    assert (mean.dtype, std.dtype, labels.dtype) == (np.float16, np.float16, np.int64)
    assert (mean == expected.half().numpy()).all()
    assert (std == 0).all()
    assert labels.tolist() == [2, 0, 1, 1, 0]
    assert reader.read([]).mean.shape == (0, 3, SIZE, SIZE)
    with pytest.raises(IndexError):
        reader.read([10])
    skipped = {"truncated or damaged": {"count": 1, "example": "b/006.png"}}
    assert reader.record["skipped"] == skipped
    assert reader.autoencoder.kind == "pixel"


def test_tars_give_the_same_latents_as_folders(tmp_path):
    write_tar(tmp_path / "tars" / "0.tar", samples(range(5)))
    write_tar(tmp_path / "tars" / "1.tar", samples(range(5, 9)))
    for number in range(9):
        path = tmp_path / "set" / str(number % 3) / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(number, "jpg"))
    make(tmp_path / "tars", tmp_path / "one")
    make(tmp_path / "set", tmp_path / "two")
    one, two = LatentReader(tmp_path / "one"), LatentReader(tmp_path / "two")
    by_class = [0, 3, 6, 1, 4, 7, 2, 5, 8]
    for a, b in zip(one.read(by_class), two.read(range(9)), strict=True):
        assert (a == b).all()


def test_mirrored_rows_lie_beside_their_pictures(source, tmp_path):
    summary = make(source, tmp_path / "out", mirror=True)
    reader = LatentReader(tmp_path / "out")
    assert (summary.num_pictures, len(reader)) == (10, 20)
    mean, _, labels = reader.read(range(20))
    assert (mean[1::2] == mean[::2, :, :, ::-1]).all()
    assert (mean[1::2] != mean[::2]).any()
    assert (labels[1::2] == labels[::2]).all()


def test_batches_follow_the_sampler(source, tmp_path):
    make(source, tmp_path / "out")
    reader = LatentReader(tmp_path / "out")
    epoch = [row for step in range(5) for row in reader.sampler(2, seed=1).batch(step)]
    assert sorted(epoch) == list(range(10))
    assert epoch[4:6] == reader.sampler(2, seed=1).batch(2)


def test_two_processes_make_the_same_bytes_as_one(source, tmp_path):
    make(source, tmp_path / "one")
    make(source, tmp_path / "two", processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


class Interrupted(PixelLatents):
    """Ctrl-C comes with the batch of the given number."""

    def __init__(self, at):
        super().__init__()
        object.__setattr__(self, "left", at)

    def encode(self, frames):
        object.__setattr__(self, "left", self.left - 1)
        if self.left == 0:
            raise KeyboardInterrupt
        return super().encode(frames)


@pytest.mark.parametrize(("batch", "finished"), [(1, 0), (3, 1), (4, 2)])
def test_interrupted_and_repeated_is_straight_through(source, tmp_path, batch, finished):
    make(source, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        make(source, tmp_path / "out", Interrupted(batch))
    assert not (tmp_path / "out" / "cache.json").exists()
    with pytest.raises(UserError, match=r"no finished latents .* pretrain/encode\.py"):
        LatentReader(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.npy"))) == finished
    # What a killed process may leave: a shard without its line, a torn line, half a file.
    with (tmp_path / "out" / "encoding.jsonl").open("a") as file:
        file.write('{"shard": 2, "rows"')
    (tmp_path / "out" / "shard-00001.77.tmp").write_bytes(b"half")
    summary = make(source, tmp_path / "out")
    assert summary.num_new == 11 - 4 * finished
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_a_finished_cache_is_left_alone_and_a_removed_shard_made_again(source, tmp_path):
    make(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.*n*")}
    assert make(source, tmp_path / "out").num_new == 0
    assert times == {path: path.stat().st_mtime_ns for path in times}
    (tmp_path / "out" / "shard-00001.npy").unlink()
    assert make(source, tmp_path / "out").num_new == 4
    assert contents(tmp_path / "out") == before


class Other(PixelLatents):
    def __init__(self):
        super().__init__(fingerprint="other")


def test_another_cache_is_never_continued(source, tmp_path):
    out = tmp_path / "out"
    make(source, out)
    with pytest.raises(UserError, match="of a different autoencoder; choose another output"):
        make(source, out, Other())
    with pytest.raises(UserError, match=r"of a different image_size \(8, now 16\)"):
        make(source, out, image_size=16)
    with pytest.raises(UserError, match=r"of a different mirror \(False, now True\)"):
        make(source, out, mirror=True)
    with pytest.raises(UserError, match=r"of a different shard_size \(4, now 5\)"):
        make(source, out, shard_size=5)
    (source / "a" / "more.png").write_bytes(picture_bytes(3))
    with pytest.raises(UserError, match="of a different list of images"):
        make(source, out)


def test_a_folder_of_other_things_is_refused(source, tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match=r"other files \(set\)"):
        make(source, tmp_path)
    with pytest.raises(UserError, match="class folders"):
        make(source, source / "latents")
    with pytest.raises(UserError, match=r"cannot write latents to .*thesis\.txt"):
        make(source, tmp_path / "thesis.txt")


def test_a_full_disk_is_one_line_and_leaves_no_half_shard(source, tmp_path, monkeypatch):
    def full(file, rows, **_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("selfflow_robotics.data.latents_encode.np.save", full)
    with pytest.raises(UserError, match=r"cannot write latents .*No space left.*repeat"):
        make(source, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "encoding.jsonl"}


def test_damaged_shards_are_named_before_a_value_is_used(source, tmp_path):
    out = tmp_path / "out"
    make(source, out)
    shard = out / "shard-00001.npy"
    whole = shard.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    shard.write_bytes(flipped)
    reader = LatentReader(out)
    reader.read([0, 1])  # another shard
    with pytest.raises(UserError, match=r"shard-00001\.npy is damaged \(sha256"):
        reader.read([0, 5])
    with pytest.raises(UserError, match=r"shard-00001\.npy is damaged"):
        make(source, out)
    shard.write_bytes(whole[:-9])
    for use in (lambda: LatentReader(out), lambda: make(source, out)):
        with pytest.raises(UserError, match=r"shard-00001\.npy has \d+ bytes instead of \d+"):
            use()
    shard.unlink()
    with pytest.raises(UserError, match=r"shard-00001\.npy is missing"):
        LatentReader(out)


def test_the_labels_that_rows_have_are_recorded(source, tmp_path):
    for path in (source / "b").iterdir():
        path.write_bytes(b"no picture")
    assert make(source, tmp_path / "out", max_skipped=0.5).labels == [0, 2]
    reader = LatentReader(tmp_path / "out")
    assert (reader.labels, reader.num_classes) == ([0, 2], 3)
    record = json.loads((tmp_path / "out" / "cache.json").read_text())
    del record["labels"]  # as an earlier version left it
    (tmp_path / "out" / "cache.json").write_text(json.dumps(record))
    assert LatentReader(tmp_path / "out").labels == [0, 2]
    make(source, tmp_path / "out", max_skipped=0.5)
    assert json.loads((tmp_path / "out" / "cache.json").read_text())["labels"] == [0, 2]


def test_a_damaged_journal_is_one_line(source, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(source, tmp_path / "out", Interrupted(3))
    journal = tmp_path / "out" / "encoding.jsonl"
    journal.write_text(journal.read_text().replace('"shard"', "shard"))
    with pytest.raises(UserError, match=r"encoding\.jsonl is damaged"):
        make(source, tmp_path / "out")


def test_too_many_unusable_pictures_stop_with_a_list(source, tmp_path):
    (source / "a" / "001.png").write_text("no picture")
    (source / "a" / "002.png").unlink()
    (source / "a" / "002.png").symlink_to("nowhere")
    message = (
        r"3 of 11 images are unusable, but max_skipped=0\.2 allows only 2: 1 not an image "
        r"\(e\.g\. a/001\.png\); 1 truncated or damaged \(e\.g\. b/006\.png\); "
        r"1 unreadable file \(e\.g\. a/002\.png\); repair or remove them, or raise max_skipped"
    )
    for processes in (1, 2):
        with pytest.raises(UserError, match=message):
            make(source, tmp_path / "out", processes=processes)
    assert not (tmp_path / "out" / "cache.json").exists()
    assert make(source, tmp_path / "out", max_skipped=0.3).num_pictures == 8


def test_a_huge_file_is_counted_and_not_read(source, tmp_path):
    with (source / "a" / "000.png").open("r+b") as file:
        file.truncate(1 << 36)
    summary = make(source, tmp_path / "out")
    assert summary.skips.counts == {"too large": 1, "truncated or damaged": 1}


def test_latents_that_float16_cannot_hold_are_refused(source, tmp_path):
    class Huge(PixelLatents):
        def encode(self, frames):
            mean, std = super().encode(frames)
            return mean * 1e6, std

    with pytest.raises(UserError, match="not finite in float16"):
        make(source, tmp_path / "out", Huge())


def test_sides_must_fit_the_autoencoder(source, tmp_path):
    class Coarse(PixelLatents):
        def __init__(self):
            super().__init__(downsample=3)

    with pytest.raises(UserError, match="image_size must be a multiple of 3"):
        make(source, tmp_path / "out", Coarse())


def test_many_shards_are_read_with_few_open(tmp_path, monkeypatch):
    monkeypatch.setattr("selfflow_robotics.data.latents.OPEN_SHARDS", 2)
    make(write_folder(tmp_path / "set", {"a": 9}), tmp_path / "out", shard_size=1)
    reader = LatentReader(tmp_path / "out")
    whole = reader.read(range(9)).mean
    assert (reader.read(range(8, -1, -1)).mean == whole[::-1]).all()


def test_posterior_samples_have_its_moments_and_follow_the_generator():
    mean = torch.full((50, 4, 16, 16), 0.5, dtype=torch.float16)
    std = torch.full_like(mean, 0.25)
    one, again = (sample_posterior(mean, std, torch_generator("test", 1)) for _ in range(2))
    assert one.dtype == torch.float32
    assert (one == again).all()
    assert (one != sample_posterior(mean, std, torch_generator("test", 2))).any()
    n = one.numel()
    assert abs(one.mean() - 0.5) < 5 * 0.25 / n**0.5
    assert abs(one.std() - 0.25) < 5 * 0.25 / (2 * n) ** 0.5
    assert (sample_posterior(mean, torch.zeros_like(std), torch_generator("test", 1)) == 0.5).all()


def test_the_record_names_what_it_is_made_of(source, tmp_path):
    make(source, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "cache.json").read_text())
    assert record["source"]["num_pictures"] == 11
    assert [shard["rows"] for shard in record["shards"]] == [4, 3, 3]
    assert all(len(shard["sha256"]) == 64 for shard in record["shards"])
