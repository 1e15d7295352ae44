"""Choose the simulator of an evaluation; detect another domain; refuse another robot."""

from collections.abc import Callable
from typing import Any, Literal

from selfflow_robotics.envs.tasks.base import GOOGLE_ROBOT, WIDOWX, Task
from selfflow_robotics.envs.tasks.catalog import TASKS, get_tasks
from selfflow_robotics.errors import UserError

Simulator = Literal["auto", "tabletop", "simpler"]

# The real-robot data set that SIMPLER simulates (RT-1's).
REAL_ROBOT_DATA = "fractal20220817_data"
_REAL_ROBOTS = {REAL_ROBOT_DATA: GOOGLE_ROBOT.name, "bridge_dataset": WIDOWX.name}

TITLES = {"tabletop": "the MuJoCo tabletop", "simpler": "SIMPLER"}


def choose_simulator(
    asked: Simulator, data: dict[str, Any] | None, check_simpler: Callable[[], None]
) -> tuple[str, str]:
    """(simulator, why). `data` is the provenance of the policy's training data, None for an
    untrained policy; `check_simpler` raises UserError if SIMPLER does not run.

    `auto` is the simulator of the data; for real-robot data SIMPLER, which simulates that robot;
    otherwise the embedded tabletop.
    """
    if asked == "simpler":
        check_simpler()
    if asked != "auto":
        return asked, f"sim={asked}"
    if data is None:
        return "tabletop", "the policy is untrained, and the tabletop needs no installation"
    origin = data.get("simulator")
    if origin == "tabletop":
        return "tabletop", "the policy's training data come from it"
    whose = "come from it" if origin == "simpler" else f"are {_origin(data)}"
    try:
        check_simpler()
    except UserError as error:
        return "tabletop", f"the training data {whose.replace('it', 'SIMPLER')}, but {error}"
    return "simpler", f"the policy's training data {whose}"


def out_of_domain(simulator: str, data: dict[str, Any] | None) -> str | None:
    """Why `simulator` is out of domain for the policy; None if it is not, or if it was
    not trained."""
    if data is None:
        return None
    origin = data.get("simulator")
    if origin == simulator or (is_real(data) and simulator == "simpler"):
        return None
    return f"the training data are {_origin(data)}, measured on {TITLES[simulator]}"


def is_real(data: dict[str, Any]) -> bool:
    """Whether the data were recorded on a real robot."""
    return "simulator" not in data and data.get("dataset") in _REAL_ROBOTS


def check_robot(task: Task, data: dict[str, Any] | None) -> None:
    """Raise UserError if the training data (their provenance) come from another robot than the
    task's."""
    robot = None if data is None else robot_of(data)
    if robot not in (None, task.robot.name):
        names = [name for name, one in TASKS.items() if one.robot.name == robot]
        raise UserError(
            f"the network was trained on data of the robot {robot}, but {task.name} is a task for "
            f"{task.robot.name}; choose one of: {', '.join(names)}"
        )


def robot_of(data: dict[str, Any]) -> str | None:
    """The robot of the data with this provenance; None if unknown."""
    dataset, robot = str(data.get("dataset")), str(data.get("robot"))
    if "simulator" not in data and dataset in _REAL_ROBOTS:
        return _REAL_ROBOTS[dataset]
    if robot in {task.robot.name for task in TASKS.values()}:
        return robot
    try:
        return get_tasks(str(data.get("task")))[0].robot.name
    except UserError:
        return None


def _origin(data: dict[str, Any]) -> str:
    if origin := data.get("simulator"):
        return f"of {TITLES.get(str(origin), origin)}"
    return "of the real robot" if is_real(data) else "of unknown origin"
