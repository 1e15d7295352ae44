"""Rendered words: their splits, captions and files."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from selfflow_robotics.data.images import list_images
from selfflow_robotics.data.rendered import fonts
from selfflow_robotics.data.rendered.words import (
    COLOURS,
    RenderedWords,
    WordsConfig,
    all_words,
    captions_of,
    contrast,
)
from selfflow_robotics.data.rendered.write import write_set
from selfflow_robotics.errors import UserError

CONFIG = WordsConfig(fonts=("aileron",))


@pytest.fixture(scope="module")
def drawn():
    return RenderedWords(CONFIG, seed=0)


def opened(files):
    return np.asarray(Image.open(io.BytesIO(files[".png"]))), json.loads(files[".json"])


def test_a_sample_is_a_function_of_seed_split_and_number(drawn):
    image, captions = opened(drawn.sample("train", 3))
    assert image.shape == (24, 48, 3)
    assert drawn.sample("train", 3) == RenderedWords(CONFIG, 0).sample("train", 3)
    others = [drawn.sample("train", 4), drawn.sample("held_out", 3)]
    others.append(RenderedWords(CONFIG, 1).sample("train", 3))
    assert all(other != drawn.sample("train", 3) for other in others)
    assert len(captions) == 4


def test_no_word_is_in_both_splits(drawn):
    words = {
        split: {prompt.split('"')[1] for prompt in drawn.prompts(split)}
        for split in ("train", "held_out")
    }
    assert words["train"] | words["held_out"] == set(all_words())
    assert not words["train"] & words["held_out"]
    assert drawn.record() == {split: len(found) for split, found in words.items()}
    assert 0.07 < len(words["held_out"]) / len(all_words()) < 0.13
    for number in range(50):
        for split in words:
            word = opened(drawn.sample(split, number))[1][0].split('"')[1]
            assert word in words[split]


def test_a_words_split_does_not_depend_on_the_others(tmp_path, drawn):
    held_out = sorted({prompt.split('"')[1] for prompt in drawn.prompts("held_out")})
    (tmp_path / "list.txt").write_text(" ".join([*held_out[:3], "cat", "dog", "sun", "hat", "map"]))
    few = RenderedWords(replace(CONFIG, words=str(tmp_path / "list.txt")), 0)
    assert set(held_out[:3]) <= {prompt.split('"')[1] for prompt in few.prompts("held_out")}


def test_captions_name_word_and_colours():
    full, *shorter = captions_of("cat", "red", "orange")
    assert full == 'the word "cat" in red on an orange background'
    assert all('"cat"' in caption and len(caption) < len(full) for caption in shorter)


def test_ink_and_ground_can_be_told_apart(drawn):
    for number in range(30):
        image, (caption, *_) = opened(drawn.sample("train", number))
        names = caption.split('"')[2].split()  # in INK on a GROUND background
        ink, ground = COLOURS[names[1]], COLOURS[names[4]]
        assert contrast(ink, ground) >= 3
        near = np.abs(image.astype(int) - ground).max(-1) <= 10
        assert near[0].all()  # the margin is ground
        assert near[:, 0].all()
        assert 0.3 < near.mean() < 0.97


def test_contrast_is_that_of_wcag():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


def write(drawn, folder, **settings):
    counts = {"train": 5, "held_out": 2}
    return write_set(drawn, folder, "words", counts, 2, {"seed": 0, **settings})


def test_a_set_is_written_once_as_captioned_tars(tmp_path, drawn):
    assert not write(drawn, tmp_path / "set")
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "held_out", "held_out.txt", "set.json", "train", "train.txt",
    ]  # fmt: skip
    images = list_images(tmp_path / "set" / "train", captioned=True)
    assert len(images) == 5
    assert len({item.file for item in images.items}) == 3
    assert list(images.items[4].captions) == opened(drawn.sample("train", 4))[1]
    assert not write(drawn, tmp_path / "again")
    for path in (tmp_path / "set").rglob("*.*"):
        again = tmp_path / "again" / path.relative_to(tmp_path / "set")
        assert again.read_bytes() == path.read_bytes()
    assert write(drawn, tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_another_folder_is_never_overwritten(tmp_path, drawn):
    write(drawn, tmp_path / "set")
    with pytest.raises(UserError, match="a set with a different size"):
        write(drawn, tmp_path / "set", size=3)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="is no rendered set"):
        write(drawn, tmp_path / "other")
    with pytest.raises(UserError, match="cannot write /proc/no"):
        write(drawn, tmp_path.__class__("/proc/no"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fonts": ()}, "fonts is empty"),
        ({"fonts": ("arial",)}, "unknown font 'arial'"),
        ({"words": "/nowhere"}, "cannot read words.words=/nowhere"),
        ({"held_out": 0.99999}, "no words are left for train"),
    ],
)
def test_a_mistake_is_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        RenderedWords(replace(CONFIG, **settings), 0)


@pytest.mark.parametrize(
    "settings", [{"held_out": 0.0}, {"font_px": (9, 8)}, {"image_size": (8, 48)}]
)
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        WordsConfig(**settings)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(fonts, "find_spec", lambda name: None)
    fonts.load_font.cache_clear()
    with pytest.raises(UserError, match=r"selfflow_robotics\[fonts\]"):
        fonts.check_fonts(("aileron", "stix"))
