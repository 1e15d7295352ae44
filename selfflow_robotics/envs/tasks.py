"""The tasks. Add a row for a new task of the same kind."""

from dataclasses import dataclass

from selfflow_robotics.errors import unknown


@dataclass(frozen=True)
class Task:
    """A task of the Google robot, as defined in SIMPLER (simpler_env/__init__.py)."""

    name: str
    instruction: str
    variants: tuple[str, ...]
    max_episode_steps: int  # control steps
    control_hz: float
    object_name: str
    object_x_m: tuple[float, float]  # range of the object's initial position, world frame
    object_y_m: tuple[float, float]


TASKS = {
    task.name: task
    for task in (
        Task(
            name="pick_coke_can",
            instruction="pick coke can",
            variants=("standing", "horizontal", "vertical"),
            max_episode_steps=80,
            control_hz=3.0,
            object_name="coke_can",
            object_x_m=(-0.35, -0.12),
            object_y_m=(-0.02, 0.42),
        ),
    )
}


def get_task(name: str) -> Task:
    """The task `name`. Raises UserError with suggestions if it is unknown."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]
