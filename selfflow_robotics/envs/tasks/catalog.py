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
# Names for several tasks, which commands that take several accept.
GROUPS: dict[str, tuple[str, ...]] = {
    "all": ("pick_coke_can", "move_near", "open_drawer", "close_drawer"),
    "drawer": ("open_drawer", "close_drawer"),
}


def get_task(name: str) -> Task:
    """The task `name`. Raises UserError with suggestions if it is unknown."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def get_tasks(names: str) -> list[Task]:
    """The tasks of `names`: a task, one of GROUPS, or several of either, separated by commas.

    Raises UserError with suggestions for an unknown name.
    """
    chosen: dict[str, Task] = {}
    for name in names.split(","):
        for member in GROUPS.get(name, (name,)):
            task = get_task(member)
            chosen[task.name] = task
    return list(chosen.values())
