"""Text in images: what is compared, the numbers, and the reader itself."""

import sys

import numpy as np
import pytest

from selfflow_robotics.data.rendered.words import WordsConfig, draw_word
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.ocr import (
    edit_distance,
    open_reader,
    quoted_text,
    read_images,
    score_text,
    text_line,
)


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [("", "", 0), ("cat", "cat", 0), ("cat", "", 3), ("", "cat", 3), ("cat", "cut", 1),
     ("cat", "act", 2), ("kitten", "sitting", 3)],
)  # fmt: skip
def test_the_edit_distance_is_levenshteins(one, other, edits):
    assert edit_distance(one, other) == edits


def test_the_wanted_text_is_what_the_prompt_quotes():
    assert quoted_text('the word "cat" in red') == "cat"
    assert quoted_text('"big" and "cat"') == "big cat"
    assert quoted_text("a cat") is None


def rows(*pairs):
    return [{"prompt": "", "wanted": wanted, "read": read} for wanted, read in pairs]


def test_case_and_blanks_do_not_count():
    score = score_text(rows(("cat", "C a T "), ("big cat", "bigcat"), ("dog", "dig"), ("sun", "")))
    assert (score["right"], score["count"]) == (2, 4)
    assert score["share"] == 0.5
    assert score["character_error_rate"] == pytest.approx(4 / 15)
    low, high = score["interval"]
    assert 0.1 < low < 0.5 < high < 0.9
    low, high = score["character_error_interval"]
    assert 0 <= low < 4 / 15 < high
    assert "2 of 4" in text_line(score)


def test_all_right_has_no_errors():
    score = score_text(rows(*[("cat", "cat")] * 20))
    assert score["character_error_interval"] == [0.0, 0.0]
    assert score["interval"][1] == 1.0


def test_images_whose_prompts_quote_nothing_are_left_out():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[:, 0, 0, 0] = range(3)
    prompts = ['"a"', "b", '"c"']
    found = read_images(images, prompts, lambda image: str(image[0, 0, 0]))
    assert [(row["wanted"], row["read"]) for row in found] == [("a", "0"), ("c", "2")]
    with pytest.raises(UserError, match="double quotes"):
        score_text(read_images(images, ["x"] * 3, lambda _: ""))


def test_without_the_package_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(UserError, match=r"selfflow_robotics\[ocr\]"):
        open_reader()


def test_rendered_words_are_read():
    pytest.importorskip("rapidocr_onnxruntime", reason="the extra 'ocr' is not installed")
    reader, config = open_reader(), WordsConfig(fonts=("aileron",))
    words = ["cat", "dog", "sun"]
    rng = np.random.default_rng(0)
    images = np.stack([draw_word(word, "black", "white", config, rng) for word in words])
    prompts = [f'"{word}"' for word in words]
    score = score_text(read_images(images, prompts, reader))
    assert score["right"] == 3
    blank = np.full((24, 48, 3), 255, np.uint8)
    assert reader(blank) == ""
