"""Open a robot data set of either format: RLDS, or LeRobot."""

import os
from collections.abc import Callable
from pathlib import Path

from selfflow_robotics.data.lerobot import survey as lerobot
from selfflow_robotics.data.lerobot.index import LeRobotIndex
from selfflow_robotics.data.lerobot.info import is_lerobot
from selfflow_robotics.data.rlds import survey as rlds
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.survey import Fault, Frames, Survey
from selfflow_robotics.data.robot_index import RobotIndex


def open_robot_data(directory: str | Path, split: str = "train") -> RobotIndex:
    """The data set in this folder: `<name>/<version>` of RLDS, or the one with meta/info.json.

    `split`: in TensorFlow Datasets syntax. Raises UserError as `RldsIndex.open` and
    `LeRobotIndex.open`.
    """
    folder = Path(os.path.expanduser(directory))
    return (LeRobotIndex if is_lerobot(folder) else RldsIndex).open(folder, split)


def is_robot_data(directory: str | Path) -> bool:
    """Whether the folder is a robot data set."""
    folder = Path(os.path.expanduser(directory))
    return (folder / "dataset_info.json").exists() or is_lerobot(folder)


def survey_robot_data(
    directory: str | Path,
    split: str = "train",
    frames: Frames = "sample",
    tell: Callable[[list[Fault]], None] = lambda faults: None,
) -> Survey:
    """`survey` of `data.rlds.survey` or `data.lerobot.survey`."""
    folder = Path(os.path.expanduser(directory))
    return (lerobot if is_lerobot(folder) else rlds).survey(folder, split, frames, tell)
