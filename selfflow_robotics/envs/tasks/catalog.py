"""All tasks by name. A new task is a new file in this folder and a row here."""

from selfflow_robotics.envs.tasks.base import DRAWERS, Task
from selfflow_robotics.envs.tasks.drawers import Drawer
from selfflow_robotics.envs.tasks.move_near import MoveNear
from selfflow_robotics.envs.tasks.pick_coke_can import PickCokeCan
from selfflow_robotics.errors import unknown

TASKS: dict[str, Task] = {
    "move_near": MoveNear(),
    "pick_coke_can": PickCokeCan(),
    **{
        task.name: task
        for verb in ("open", "close")
        for task in (Drawer(verb), *(Drawer(verb, (drawer,)) for drawer in DRAWERS))
    },
}
DEFAULT_TASK = "pick_coke_can"


def get_task(name: str) -> Task:
    """The task `name`. Raises UserError with suggestions if it is unknown."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]
