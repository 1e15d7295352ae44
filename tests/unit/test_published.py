"""Published numbers stand only beside those of the same protocol, played whole."""

import pytest

from selfflow_robotics.envs.tasks.catalog import TASKS
from selfflow_robotics.evaluation.protocol import evaluation_episodes
from selfflow_robotics.evaluation.published import VISUAL_MATCHING, published_line


@pytest.mark.parametrize("name", VISUAL_MATCHING)
def test_they_belong_to_the_whole_protocol(name):
    episodes = evaluation_episodes(TASKS[name], "simpler", "visual_matching", None, 0)
    line = published_line(name, "visual_matching", len(episodes))
    assert line is not None
    assert "\n" not in line
    assert published_line(name, "grid", len(episodes)) is None
    assert published_line(name, "visual_matching", len(episodes) - 1) is None


def test_other_tasks_have_none():
    assert published_line("open_top_drawer", "visual_matching", 36) is None
    assert published_line("pick_object", "visual_matching", 0) is None


def test_the_numbers_are_simplers():
    line = published_line("close_drawer", "visual_matching", 108)
    assert line is not None
    assert "RT-1 (converged) 86.1 %, RT-2-X 34.3 %" in line
