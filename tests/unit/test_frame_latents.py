"""Frames of an RLDS data set as latents: encoded by the command, read as windows, refused when
they are of something else."""

import json
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from selfflow_robotics.autoencoders.latent import PixelLatents
from selfflow_robotics.data.augment import AugmentConfig
from selfflow_robotics.data.latents import LatentReader
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.latents import FrameLatents, RldsFrames
from selfflow_robotics.data.rlds.windows import WindowReader
from selfflow_robotics.data.samples import window_batch
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.modalities.pixels import PixelPatches
from selfflow_robotics.objective.roles import ROLES
from tests.pictures import write_folder
from tests.rlds_sets import make_set

ROOT = Path(__file__).parents[2]
main = runpy.run_path(str(ROOT / "pretrain/encode.py"), run_name="imported")["main"]
SIZE = (8, 12)
SMALL = ["autoencoder=pixel", "frame_size=[8,12]", "shard_size=4", "processes=1", "device=cpu"]
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Seventeen frames, and their cache of five shards in `out`."""
    monkeypatch.chdir(tmp_path)
    make_set(tmp_path / "sets", [5, 3, 9])
    main([*SMALL, "--data", "sets/toy/0.1.0", "--output", "out"])
    return tmp_path


def index_of(data="sets/toy/0.1.0", split="train"):
    return RldsIndex.open(data, split)


def contents(path):
    return {p.name: p.read_bytes() for p in path.iterdir() if p.name != ".lock"}


def test_row_n_is_step_n(folder):
    latents = FrameLatents("out", index_of())
    assert (len(latents), latents.shape, latents.image_size) == (17, (3, *SIZE), SIZE)
    frames = WindowReader(index_of(), image_size=SIZE).read(range(17)).frames[:, 0]
    expected, _ = PixelLatents().encode(torch.from_numpy(frames))
    assert latents.read([3]).dtype == np.float16
    assert (latents.read(range(16, -1, -1)) == expected.half().numpy()[::-1]).all()


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_windows_of_latents_are_those_of_pictures(folder, cache_bytes):
    index = index_of()
    how = {"horizon": 2, "future_frames": 3, "episodes": [2, 0], "cache_bytes": cache_bytes}
    latents = FrameLatents("out", index)
    encoded = WindowReader(index, frames=latents, **how)
    plain = WindowReader(index, image_size=SIZE, **how)
    chosen = [0, 8, 13, 8, 5]
    for later in (None, 0):
        windows, expected = (reader.read(chosen, later) for reader in (encoded, plain))
        assert (windows.frames_valid == expected.frames_valid).all()
        assert (windows.actions == expected.actions).all()
        codec = latents.codec(patch=4)
        batch = window_batch(windows, {FRAMES: codec}, ROLES["clip"], CPU)
        pictures = {FRAMES: codec.load("cpu")}
        same = window_batch(expected, pictures, ROLES["clip"], CPU)
        for slot in ("first_frame", "later_frames"):
            mine, theirs = batch.slots[slot], same.slots[slot]
            torch.testing.assert_close(mine.tokens, theirs.tokens, rtol=0, atol=5e-4)
            assert (mine.places == theirs.places).all()
        assert (batch.slots["later_frames"].valid == same.slots["later_frames"].valid).all()


def test_latents_cannot_be_augmented_or_read_as_pixels(folder):
    latents = FrameLatents("out", index_of())
    windows = WindowReader(index_of(), frames=latents).read([0])
    changes = AugmentConfig(brightness=0.1)
    with pytest.raises(UserError, match="augment"):
        window_batch(windows, {FRAMES: latents.codec(4)}, ROLES["image"], CPU, None, changes)
    with pytest.raises(UserError, match="codec"):
        window_batch(windows, {FRAMES: PixelPatches(SIZE, 4)}, ROLES["image"], CPU)


def test_a_finished_cache_is_left_alone_and_a_removed_shard_made_again(folder, capsys):
    before = contents(folder / "out")
    main([*SMALL, "--data", "sets/toy/0.1.0", "--output", "out"])
    assert "nothing new" in capsys.readouterr().out
    (folder / "out" / "shard-00002.npy").unlink()
    main([*SMALL, "--data", "sets/toy/0.1.0", "--output", "out"])
    assert contents(folder / "out") == before


def test_data_at_another_place_make_the_same_bytes(folder):
    before = contents(folder / "out")
    (folder / "sets").rename(folder / "moved")
    main([*SMALL, "--data", "moved/toy/0.1.0", "--output", "two"])
    after = contents(folder / "two")
    moved = json.loads(after.pop("cache.json"))
    record = json.loads(before.pop("cache.json"))
    moved["source"].pop("path")
    record["source"].pop("path")
    assert (after, moved) == (before, record)


def test_an_interrupted_cache_is_refused_and_continued(folder, monkeypatch):
    class Stops(PixelLatents):
        def encode(self, frames):
            raise KeyboardInterrupt

    before = contents(folder / "out")
    (folder / "out" / "shard-00003.npy").unlink()
    monkeypatch.setattr(PixelLatents, "encode", Stops.encode)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main([*SMALL, "--data", "sets/toy/0.1.0", "--output", "out"])
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="no finished latents"):
        FrameLatents("out", index_of())
    main([*SMALL, "--data", "sets/toy/0.1.0", "--output", "out"])
    assert contents(folder / "out") == before


def test_a_cache_of_something_else_is_refused(folder):
    other = make_set(folder / "others", [5, 3, 9, 2])
    with pytest.raises(UserError, match="latents of different data") as caught:
        FrameLatents("out", index_of(other))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="latents of different data"):
        FrameLatents("out", index_of(split="train[:2]"))
    with pytest.raises(UserError, match="a robot's frames, not of images"):
        LatentReader("out")
    write_folder(folder / "set", {"cat": 2, "dog": 2})
    main([*SMALL, "frame_size=null", "image_size=8", "--data", "set", "--output", "pictures"])
    with pytest.raises(UserError, match="images with labels, not of a robot's frames"):
        FrameLatents("pictures", index_of())


def test_a_damaged_shard_is_named_before_a_value_is_used(folder):
    shard = folder / "out" / "shard-00001.npy"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    latents = FrameLatents("out", index_of())
    latents.read([0])
    with pytest.raises(UserError, match=r"shard-00001\.npy is damaged"):
        latents.read([0, 5])


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("image_size",), "8"),
        (("latents", "size"), [8, 12, 3]),
        (("latents", "size"), [8, -12]),
        (("latents", "size"), [10**6, 10**6]),
        (("shards", 0, "rows"), 10**9),
    ],
)
def test_a_record_that_says_what_is_not_so_is_one_line(folder, keys, value):
    path = folder / "out" / "cache.json"
    record = part = json.loads(path.read_text())
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="damaged"):
        FrameLatents("out", index_of())


def test_another_process_reads_the_same_frames(folder):
    part = RldsFrames.open("sets/toy/0.1.0").part(4, 8).part(1, 9)
    again = pickle.loads(pickle.dumps(part))
    assert len(again) == 3
    assert (again.read(2, SIZE) == part.read(2, SIZE)).all()
    assert (again.read(0, (16, 24)) == index_of().frame(5)).all()


def test_data_that_change_meanwhile_stop_the_work(folder):
    frames = RldsFrames.open("sets/toy/0.1.0")
    with pytest.raises(UserError, match="changed while"):
        _ = RldsFrames(frames.directory, "train", "another", 0, 3).index


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mirror=true"], "mirror=true"),
        (["split=test"], "no split 'test'"),
        (["image_size=64"], "image_size=64 is for images"),
        (["frame_size=[0,12]"], "frame_size must be from 1"),
        (["frame_size=[16,24]"], "different image_size"),
        (["--split", "train[:2]"], "of a different data set"),
        (["shard_size=5"], "different shard_size"),
        (["autoencoder=wan"], "encodes clips"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, "--data", "sets/toy/0.1.0", "--output", "out", *arguments])
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_the_folders_name_tells_what_is_in_it(folder):
    main([*SMALL, "--data", "sets/toy/0.1.0", "--split", "train[:2]", "root=."])
    latents = FrameLatents("toy_train-2_pixel_8x12", index_of(split="train[:2]"))
    assert len(latents) == 8
