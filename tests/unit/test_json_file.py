"""JSON files of strangers: every way in which they say nothing is one exception."""

import os

import pytest

from selfflow_robotics.json_file import MOST_LEVELS, read_json


@pytest.mark.parametrize("text", ["{", "[" * 10**6, '{"a":' * 10**5, "9" * 10**4, "\0"])
def test_what_says_nothing_is_a_value_error(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "a.json")


def test_files_that_are_too_large_or_none_are_not_read(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    assert read_json(tmp_path / "a.json") == [1]
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match="no regular file"):
        read_json(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match="3 bytes"):
        read_json(tmp_path / "a.json", most_bytes=2)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_depth_is_bounded_below_what_the_parser_bears(tmp_path):
    levels = MOST_LEVELS
    (tmp_path / "a.json").write_text("[" * levels + "]" * levels)
    read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[" * (levels + 1) + "]" * (levels + 1))
    with pytest.raises(ValueError, match="levels"):
        read_json(tmp_path / "a.json")
