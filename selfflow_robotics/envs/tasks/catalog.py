"""All tasks by name. To add one, add a file to this folder and a row to TASKS (docs/tasks.md)."""

from selfflow_robotics.envs.tasks.base import DRAWERS, Task
from selfflow_robotics.envs.tasks.carrot_on_plate import CarrotOnPlate
from selfflow_robotics.envs.tasks.drawers import Drawer
from selfflow_robotics.envs.tasks.move_near import MoveNear
from selfflow_robotics.envs.tasks.pick_coke_can import ORIENTATIONS, PickCokeCan
from selfflow_robotics.envs.tasks.pick_object import PickObject
from selfflow_robotics.envs.tasks.place_in_drawer import PlaceAppleInDrawer
from selfflow_robotics.envs.tasks.put_can_on_plate import PutCanOnPlate
from selfflow_robotics.envs.tasks.put_eggplant_in_basket import PutEggplantInBasket
from selfflow_robotics.envs.tasks.spoon_on_towel import SpoonOnTowel
from selfflow_robotics.envs.tasks.stack_cube import StackCube
from selfflow_robotics.errors import UserError, unknown

TASKS: dict[str, Task] = {
    "move_near": MoveNear(),
    "move_near_v0": MoveNear("v0"),
    "pick_coke_can": PickCokeCan(),
    **{task.name: task for task in (PickCokeCan((lies,)) for lies in ORIENTATIONS)},
    **{
        task.name: task
        for verb in ("open", "close")
        for task in (Drawer(verb), *(Drawer(verb, (drawer,)) for drawer in DRAWERS))
    },
    "pick_object": PickObject(),
    "place_apple_in_closed_top_drawer": PlaceAppleInDrawer(),
    "put_can_on_plate": PutCanOnPlate(),
    **{
        task.name: task
        for task in (SpoonOnTowel(), CarrotOnPlate(), StackCube(), PutEggplantInBasket())
    },
}
_AGGREGATION = {task.name: task for own in TASKS.values() for task in own.aggregation()}
DEFAULT_TASK = "pick_coke_can"
# Names for groups of tasks. "all" has only the google robot's: a data set, a policy and SIMPLER's
# averages are for one robot.
GROUPS: dict[str, tuple[str, ...]] = {
    "all": (
        "pick_coke_can",
        "move_near",
        "open_drawer",
        "close_drawer",
        "place_apple_in_closed_top_drawer",
    ),
    "drawer": ("open_drawer", "close_drawer"),
    "widowx": ("spoon_on_towel", "carrot_on_plate", "stack_cube", "put_eggplant_in_basket"),
}


# SIMPLER's names are ours with a prefix, and some have a version.
_SIMPLER_PREFIXES = ("google_robot_", "widowx_")
_VERSIONS = {"move_near_v1": "move_near"}


def get_task(name: str) -> Task:
    """The task `name`, which may be SIMPLER's name for it (google_robot_pick_coke_can).

    Raises UserError with suggestions if it is unknown.
    """
    own = name
    for prefix in _SIMPLER_PREFIXES:
        own = own.removeprefix(prefix)
    own = _VERSIONS.get(own, own)
    known = _AGGREGATION if "@" in own else TASKS
    if own in GROUPS:
        raise UserError(f"{own} means several tasks; choose one of {', '.join(GROUPS[own])}")
    if own not in known:
        raise unknown("task", own, known if "@" in own else [*known, *GROUPS])
    return known[own]


def get_tasks(names: str) -> list[Task]:
    """The tasks of `names`, each once: see `list_tasks`."""
    return list({task.name: task for task in list_tasks(names)}.values())


def list_tasks(names: str) -> list[Task]:
    """The tasks of `names`: a task, one of GROUPS, or several of either, separated by commas. A
    task named more than once is there as often.

    Raises UserError with suggestions for an unknown name.
    """
    own = own_names(names).split(",")
    return [get_task(member) for name in own for member in GROUPS.get(name, (name,))]


def own_names(names: str) -> str:
    """`names` as for `list_tasks`, with SIMPLER's names replaced by ours."""
    given = [name.strip() for name in names.split(",")]
    return ",".join(name if name in GROUPS else get_task(name).name for name in given)


def short_names(names: str) -> str:
    """The tasks of `names`, each once, as the name of a group if they are one."""
    own = [task.name for task in get_tasks(names)]
    groups = (name for name, members in GROUPS.items() if set(members) == set(own))
    return next(groups, ",".join(own))
