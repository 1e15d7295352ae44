"""Where an episode began, from its line in the ledger alone.

Simulators draw what a line does not say from its seed (`envs.episodes`), so no simulator is needed.
"""

from typing import NamedTuple

from selfflow_robotics.envs.episodes import EpisodeSpec, drawn
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.evaluation.ledger import EpisodeRecord


class Place(NamedTuple):
    """A position on the table (m, world), and what is there."""

    x: float
    y: float
    what: str


def place_of(record: EpisodeRecord) -> Place:
    """The initial position of the object that the task is about; without objects, the robot's."""
    task = get_task(record.task)
    spec = EpisodeSpec(record.task, record.variant, record.seed, record.options)
    scene = task.scene(drawn(task, spec))
    if not scene.objects:
        return Place(*scene.base_xy, "robot")
    return Place(*scene.objects[0].xy, "object")
