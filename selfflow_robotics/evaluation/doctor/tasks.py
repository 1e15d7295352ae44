"""The task of recordings that do not name theirs."""

from collections.abc import Iterator

from selfflow_robotics.data.rlds.schema import BRIDGE
from selfflow_robotics.envs.episodes import draw_start
from selfflow_robotics.envs.tasks.base import WIDOWX, Task
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, GROUPS, TASKS
from selfflow_robotics.evaluation.doctor.recordings import Recordings
from selfflow_robotics.evaluation.domain import robot_of


def robot_in(found: Recordings) -> str:
    """The robot of the data: as recorded, or else that of the features."""
    own = WIDOWX.name if found.layout == BRIDGE.name else TASKS[DEFAULT_TASK].robot.name
    return robot_of(found.provenance) or own


def task_of(found: Recordings) -> str:
    """The first task of the robot that has a recorded instruction, or else its first task."""
    note = next((one.note["task"] for one in found.episodes if "task" in one.note), None)
    if note in TASKS:
        return str(note)
    robot = robot_in(found)
    names = [*GROUPS["all"], *GROUPS["widowx"]]
    tasks = [TASKS[name] for name in names if TASKS[name].robot.name == robot]
    texts = {one.instruction for one in found.episodes}
    return next((task.name for task in tasks if texts & set(_instructions(task))), tasks[0].name)


def _instructions(task: Task) -> Iterator[str]:
    """Of one episode of each variant."""
    for variant in task.variants:
        yield from task.instructions(draw_start(task, 0, {"variant": variant}))
