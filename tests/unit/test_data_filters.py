"""Filters choose the episodes to train on; a run records them and resumes with the same ones."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from selfflow_robotics.cli.runs import open_run
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.robot_windows import ClipData, RobotData, Source, choose_episodes
from selfflow_robotics.errors import UserError
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.training.checkpoint import save_checkpoint
from tests.rlds_sets import make_steps, write_set

ROOT = Path(__file__).parents[2]
TEXTS = ["pick coke can", "pick apple", "open top drawer", "pick coke can", "move (a) near b", ""]
LENGTHS = [4, 3, 5, 2, 6, 3]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    episodes = [
        make_steps(number, length, text)
        for number, (length, text) in enumerate(zip(LENGTHS, TEXTS, strict=True))
    ]
    return RldsIndex.open(write_set(tmp_path_factory.mktemp("rlds"), episodes))


@pytest.fixture(scope="module")
def settings():
    return runpy.run_path(str(ROOT / "finetune/rt1.py"), run_name="imported")["FinetuneConfig"]


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"instruction": "pick coke can"}, [0, 3]),
        ({"instruction": "pick"}, None),  # whole instructions
        ({"instruction": "pick .*"}, [0, 1, 3]),
        ({"instruction": "pick apple|open .* drawer"}, [1, 2]),
        ({"instruction": r"move \(a\) near b"}, [4]),
        ({"instruction": ".+"}, [0, 1, 2, 3, 4]),
        ({"min_length": 4}, [0, 2, 4]),
        ({"max_length": 3}, [1, 3, 5]),
        ({"min_length": 3, "max_length": 5}, [0, 1, 2, 5]),
        ({"min_length": 7}, None),
        ({"successes_only": True}, [0, 1, 2, 3, 4]),
        ({"successes_only": True, "instruction": "pick .*", "max_length": 3}, [1, 3]),
        ({"instruction": "pick .*", "min_length": 5}, None),
    ],
)
def test_episodes_that_pass_all_filters(index, settings, filters, chosen):
    if chosen is None:
        with pytest.raises(UserError, match="no episodes"):
            choose_episodes(index, settings(**filters))
    else:
        assert choose_episodes(index, settings(**filters)) == chosen


@pytest.mark.parametrize(
    "filters",
    [
        {"instruction": "pick ("},
        {"min_length": 0},
        {"max_length": -1},
        {"min_length": 5, "max_length": 4},
    ],
)
def test_filters_that_make_no_sense_are_refused(settings, filters):
    with pytest.raises(UserError):
        settings(**filters)


def test_training_sees_the_chosen_episodes_alone(index, settings):
    config = settings(instruction="pick .*", play_share=0, validation=0, frame_batch=2)
    data = RobotData([Source(index)], None, config)
    episodes = {
        episode for step in range(10) for episode in data.batch_at(step)[2].episode.tolist()
    }
    assert episodes == {0, 1, 3}
    assert data.stats.num_transitions == 4 + 3 + 2
    told = {"successes_only": False, "instruction": "pick .*"}
    assert told.items() <= data.provenance.items()


def test_training_reads_every_nth_frame(index, settings):
    model = RobotConfig(image_size=(16, 24), patch=8, later_frames=2, frame_stride=2)
    config = settings(model=model, roles={"video": 1.0}, play_share=0, validation=0, frame_batch=4)
    clips = ClipData(index, {"clip": 1.0}, {"clip": 4}, 3, (16, 24), seed=0, frame_stride=2)
    for data in (RobotData([Source(index)], None, config), clips):
        windows = data.batch_at(0)[2]
        for row, (episode, step) in enumerate(zip(windows.episode, windows.step, strict=True)):
            start, last = index.episode_start[episode], index.episode_length[episode] - 1
            for place in range(3):
                frame = index.frame(start + min(step + 2 * place, last))
                np.testing.assert_array_equal(windows.frames[row, place], frame)


def test_a_run_resumes_with_the_same_filters_only(settings, tmp_path):
    run = open_run("finetune", tmp_path / "a", settings(instruction="pick .*", max_length=9))
    save_checkpoint(run / "checkpoints", 1, {"teacher": {"w": torch.zeros(1)}}, {})
    open_run("finetune", run, settings(instruction="pick .*", max_length=9))
    for other in ({}, {"instruction": "pick .*"}, {"instruction": "pick", "max_length": 9}):
        with pytest.raises(UserError, match="holds a run with"):
            open_run("finetune", run, settings(**other))
