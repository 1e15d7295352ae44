"""Rendered clips: their splits and captions, what is visible, and their files."""

import json
from collections import Counter

import numpy as np
import pytest

from selfflow_robotics.data.captioned_files import list_media
from selfflow_robotics.data.rendered.clips import (
    COLOURS,
    HIDING,
    ClipsConfig,
    RenderedClips,
    all_combinations,
    render,
)
from selfflow_robotics.data.rendered.write import write_set
from selfflow_robotics.data.videos import VIDEOS, ClipShape
from selfflow_robotics.errors import UserError

CONFIG = ClipsConfig()


@pytest.fixture(scope="module")
def drawn():
    return RenderedClips(CONFIG, seed=0)


def test_a_clip_is_a_function_of_seed_split_and_number(drawn):
    one = drawn.sample("train", 3)
    assert one == RenderedClips(CONFIG, 0).sample("train", 3)
    others = [drawn.sample("train", 4), drawn.sample("held_out", 3)]
    others.append(RenderedClips(CONFIG, 1).sample("train", 3))
    assert all(other[".mp4"] != one[".mp4"] for other in others)


def test_no_combination_is_in_both_splits(drawn):
    assert drawn.record()["train"] + drawn.record()["held_out"] == len(all_combinations())
    seen = {"train": set(), "held_out": set()}
    for split, kinds in seen.items():
        for number in range(100):
            things = drawn.scene(split, number).things
            kinds.add(frozenset((thing.colour, thing.shape) for thing in things))
    assert not seen["train"] & seen["held_out"]
    assert len(drawn.prompts("held_out")) == drawn.record()["held_out"]


def test_objects_stay_in_the_picture_and_only_the_pillar_hides_them(drawn):
    motions = Counter()
    for number in range(60):
        scene = drawn.scene("train", number)
        frames, visible = render(scene, CONFIG)
        assert (frames.shape, visible.shape) == ((13, 32, 48, 3), (len(scene.things), 13))
        for thing, shares in zip(scene.things, visible, strict=True):
            motions[thing.motion] += 1
            x, y = thing.places.T
            assert 4 < x.min() <= x.max() < 44, thing
            assert 4 < y.min() <= y.max() < 28, thing
            if thing.motion in HIDING:
                assert scene.pillar is not None
                assert (shares[0], shares[-1]) == (1, 1)
                assert shares.min() < 0.3
            else:
                assert (shares == 1).all(), thing
            shown = np.abs(frames.astype(int) - COLOURS[thing.colour]).max(-1) <= 3
            assert ((shown.sum((1, 2)) > 0) >= (shares > 0.5)).all()
    assert len(motions) == 7


def test_captions_name_objects_motions_and_ground(drawn):
    scene = drawn.scene("train", 0)
    full, *shorter = scene.captions
    for thing in scene.things:
        assert f"a {thing.colour} {thing.shape} {thing.motion}" in full
        assert all(thing.words in caption for caption in shorter)
    assert scene.ground in full


def test_a_set_is_a_folder_of_captioned_videos(tmp_path, drawn):
    settings = {"seed": 0}
    assert not write_set(drawn, tmp_path / "set", "clips", {"train": 3, "held_out": 1}, None,
                         settings)  # fmt: skip
    media = list_media(tmp_path / "set/train", VIDEOS, {"frames": ClipShape(13, 8.0, (32, 48))})
    assert len(media) == 3
    assert (media.read(1)["frames"] == drawn.frames("train", 1)).all()
    assert list(media.captions[1]) == drawn.scene("train", 1).captions
    record = json.loads((tmp_path / "set/train/000001.visible.json").read_text())
    assert [len(thing["visible"]) for thing in record["objects"]] == [13] * len(record["objects"])


@pytest.mark.parametrize(
    "settings", [{"frames": 1}, {"fps": 0.0}, {"image_size": (33, 48)}, {"held_out": 1.0}]
)
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        ClipsConfig(**settings)
