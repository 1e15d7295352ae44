"""Every evaluation compares a known first frame with the reference machine's."""

import json
from pathlib import Path

import numpy as np
import pytest

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.envs.tasks.catalog import TASKS, get_task
from selfflow_robotics.evaluation import reference_frames
from selfflow_robotics.evaluation.reference_frames import (
    BLOCK_LIMIT,
    FILE,
    MEAN_LIMIT,
    FrameDifference,
    compare_frame,
    reference_episode,
)
from selfflow_robotics.evaluation.report import Report

ROOT = Path(__file__).parents[2]


class Pictures:
    """A client whose every frame is the reference's plus an offset."""

    def __init__(self, task, offset, where=...):
        self.spec = SimulatorSpec(task=task.name)
        known = json.loads(FILE.read_text())["tabletop"]["frames"][task.name]
        image = np.array(known, float).reshape(8, 10, 3)
        image[where] = np.clip(image[where] + offset, 0, 255)
        self.image = image.astype(np.uint8).repeat(8, 0).repeat(8, 1)

    def call(self, method, **arguments):
        assert method == "reset"
        self.arguments = arguments
        return {"observation": {"image": self.image}}


@pytest.mark.parametrize("name", ["pick_coke_can", "open_drawer", "stack_cube"])
def test_this_machine_renders_the_tabletop_as_the_reference_does(name):
    task = get_task(name)
    with SimulatorClient(SimulatorSpec(task=name)) as client:
        found = compare_frame(client, task)
        again = compare_frame(client, task)
    assert found == again
    assert found.is_small
    assert found.mean < 0.2


def test_every_task_of_the_tabletop_has_a_reference():
    assert set(json.loads(FILE.read_text())["tabletop"]["frames"]) == set(TASKS)


def test_every_task_of_simpler_has_a_reference():
    # The eggplant's mesh is missing in many checkouts, also in the reference machine's.
    bound = {name for name, task in TASKS.items() if task.simpler} - {"put_eggplant_in_basket"}
    assert set(json.loads(FILE.read_text())["simpler"]["frames"]) == bound


def test_another_lighting_and_a_missing_object_are_seen():
    task = get_task("move_near")
    assert compare_frame(Pictures(task, 0), task) == FrameDifference(
        0, 0, json.loads(FILE.read_text())["tabletop"]["renderer"]
    )
    darker = compare_frame(Pictures(task, -10), task)
    assert darker.mean > MEAN_LIMIT
    assert not darker.is_small
    missing = compare_frame(Pictures(task, 20, where=(4, 5)), task)
    assert missing.mean < MEAN_LIMIT
    assert missing.block > BLOCK_LIMIT
    assert not missing.is_small


def test_the_reference_state_is_the_first_of_the_grid():
    task = get_task("move_near")
    client = Pictures(task, 0)
    compare_frame(client, task)
    episode = reference_episode(task, "tabletop")
    assert client.arguments["seed"] == episode.seed
    assert client.arguments["options"] == {"variant": episode.variant, **episode.options}
    assert "robot_variant" in reference_episode(task, "simpler").options


def test_without_a_reference_nothing_is_compared(monkeypatch, tmp_path):
    fake = SimulatorSpec(simulator="tests.fakes:FakeEnv", image_size=(8, 10), path=str(ROOT))
    with SimulatorClient(fake) as client:
        assert compare_frame(client, get_task("pick_coke_can")) is None
    empty = tmp_path / "none.json"
    empty.write_text("{}")
    monkeypatch.setattr(reference_frames, "FILE", empty)
    reference_frames._references.cache_clear()
    try:
        task = get_task("pick_coke_can")
        monkeypatch.setattr(Pictures, "__init__", lambda self: None)
        client = Pictures()
        client.spec = SimulatorSpec(task=task.name)
        assert compare_frame(client, task) is None
    finally:
        reference_frames._references.cache_clear()


@pytest.mark.parametrize("difference", [FrameDifference(0.25, 1, "X"), FrameDifference(3, 9, "X")])
def test_the_report_says_how_far(difference):
    report = Report(
        *("pick_coke_can", "MuJoCo tabletop", "random", 0, ("standing",), {"random": []}),
        reference_frame=difference,
    )
    assert report.to_json()["reference_frame"] == {
        "mean": difference.mean,
        "block": difference.block,
        "reference": "X",
    }
    assert f"{difference.mean:.1f}" in report.to_text()
    assert f"{difference.block:.0f} in" in report.to_markdown()
