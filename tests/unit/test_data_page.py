"""The page of a data set: one file with pictures and charts."""

import re

import numpy as np
from plotly.offline import get_plotlyjs

from selfflow_robotics.data.rlds.survey import survey
from selfflow_robotics.evaluation.pages.data_charts import gripper_charts
from selfflow_robotics.evaluation.pages.data_page import choose_episodes, page_html
from selfflow_robotics.evaluation.pages.data_report import data_report
from tests.rlds_sets import make_grasp, write_set

COUNT = 6


def episodes() -> list[list[dict]]:
    return [make_grasp(seed, 20 + seed) for seed in range(COUNT)]


def test_pictures_are_of_as_many_instructions_as_possible(tmp_path):
    changed = episodes()
    for number in (1, 5):
        for step in changed[number]:
            step["instruction"] = f"task {number}"
    found = survey(write_set(tmp_path, changed)).episodes
    assert {one.instruction for one in choose_episodes(found, 3)} == {
        "pick coke can",
        "task 1",
        "task 5",
    }
    assert len(choose_episodes(found, 20)) == COUNT
    assert choose_episodes(found, 0) == []


def test_the_page_is_one_file_and_text_cannot_become_markup(tmp_path):
    changed = episodes()
    for step in changed[0]:
        step["instruction"] = "<script>alert(1)</script>"
    changed[3][7]["world_vector"] = np.array([0.0, 22.0, 0.0])
    found = survey(write_set(tmp_path, changed))
    page = page_html(found, data_report(found), num_episodes=4)
    assert page.count(get_plotlyjs()) == 1
    ours = page.replace(get_plotlyjs(), "")
    for outside in ("http:", "https:", "<script src", "<link", "@import", "url(", "href"):
        assert outside not in ours
    assert "<script>alert" not in ours
    # Three pictures of each of four episodes, and of the outlier.
    assert re.findall(r'src="(.{23})', ours) == ["data:image/jpeg;base64,"] * 15
    names = ["warnings", "pictures", "episodes", "actions", "gripper", "outliers", "faults"]
    assert re.findall(r'<section id="(\w+)">', page) == [*names, "provenance"]


def test_a_command_in_the_last_step_has_nothing_after_it(tmp_path, recwarn):
    changed = episodes()[:2]
    for steps in changed:
        for t, step in enumerate(steps):
            step["gripper_closedness_action"] = float(t == len(steps) - 1)
    found = survey(write_set(tmp_path, changed)).episodes
    _, follow = gripper_charts({"close (+1)": 1.0}, found)
    assert list(follow.data[1].x) == [-3, -2, -1, 0]
    assert len(recwarn) == 0
