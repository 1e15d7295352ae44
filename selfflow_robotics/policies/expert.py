"""The scripted expert: executes a task's plan from privileged state (`info["state"]`), no images.

It uses the same actions as every policy and works in both simulators, which share SIMPLER's
kinematics and response. A plan is a list of skills (`envs.tasks.plan`). Each skill has a function
(`policies.expert_objects`, `expert_drawers`, and `expert_widowx` for WidowX) that turns the state
into a command in the world frame and advances `Progress`; `decide` converts it to an action.
"""

from typing import Any

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec, drawn
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.envs.tasks.plan import (
    Grasp,
    Hover,
    Pick,
    Place,
    Pull,
    Push,
    PutInto,
    PutOn,
    Skill,
)
from selfflow_robotics.policies.expert_drawers import pull, push
from selfflow_robotics.policies.expert_objects import hover, pick, place, put_into
from selfflow_robotics.policies.expert_widowx import grasp, put_on
from selfflow_robotics.policies.motion import Progress
from selfflow_robotics.robot.rotations import from_wxyz

_SKILLS = {
    Pick: pick,
    Place: place,
    Pull: pull,
    Push: push,
    PutInto: put_into,
    Hover: hover,
    Grasp: grasp,
    PutOn: put_on,
}


class ScriptedExpert:
    """Executes the plan of the episode's task; returns chunks of one action."""

    name = "expert"
    privileged = True
    looks = False

    def __init__(self) -> None:
        self._progress: dict[int, Progress] = {}

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        """Reset the state of the slot."""
        self._progress[slot] = Progress(plan_of(episode))

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None,
    ) -> list[np.ndarray]:
        """One action for each slot. Raises ValueError without `infos`."""
        if infos is None:
            raise ValueError("the scripted expert needs `infos`")
        return [
            decide(self._progress[slot], info)[None]
            for slot, info in zip(slots, infos, strict=True)
        ]


def plan_of(episode: EpisodeSpec) -> tuple[Skill, ...]:
    """The plan of the episode's task."""
    task = get_task(episode.task)
    return task.plan(drawn(task, episode))


def decide(progress: Progress, info: dict[str, Any]) -> np.ndarray:
    """The action float32 [7] after a step with this `info`; updates `progress`."""
    progress.elapsed_steps, state = info["elapsed_steps"], info["state"]
    skill = progress.plan[progress.done]
    command = _SKILLS[type(skill)](progress, skill, state)
    in_base = from_wxyz(state["base_pose"][3:]).inv().apply([command.move, command.turn])
    return np.append(in_base, command.gripper).astype(np.float32)
