"""What a task is: everything that simulators, experts, protocols and probes ask of it.

A task is one file in this folder, a subclass of `Task`, and a row in `catalog.TASKS`. All its
methods are functions of the episode, the JSON-able dict that `envs.episodes.draw_start` draws, so
two simulators that draw the same episode show the same thing. Tasks run in the simulators'
processes too and import neither torch nor a simulator.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from selfflow_robotics.envs.simpler.binding import SimplerBinding
from selfflow_robotics.envs.tasks.objects import Body, Rest
from selfflow_robotics.envs.tasks.plan import Skill
from selfflow_robotics.envs.tasks.rules import Rule, Seen
from selfflow_robotics.errors import UserError

Episode = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """An option of an episode that is one of several words, all equally likely."""

    values: tuple[str, ...]

    def draw(self, rng: np.random.Generator) -> str:
        """One of the values."""
        return self.values[int(rng.integers(len(self.values)))]

    def check(self, name: str, value: Any) -> str:
        """`value`, the option called `name`. Raises UserError if it is not one of the values."""
        if value not in self.values:
            raise UserError(f"unknown {name} {value!r}; known: {', '.join(self.values)}")
        return value


@dataclass(frozen=True)
class Range:
    """An option of an episode that is a position: uniform between two corners (m, world)."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    room_m: float = math.inf  # how far outside the corners a draw may be

    def draw(self, rng: np.random.Generator, margin_m: float = 0.0) -> list[float]:
        """A position at most `margin_m` and at most `room_m` outside the corners."""
        margin_m = min(margin_m, self.room_m)
        return [
            float(rng.uniform(low - margin_m, high + margin_m))
            for low, high in zip(self.low, self.high, strict=True)
        ]

    def check(self, name: str, value: Any) -> list[float]:
        """`value`, the option called `name`, as floats; any finite position is allowed.

        Raises UserError for anything else.
        """
        wanted = f"{name} must be {len(self.low)} numbers (m, world), got {value!r}"
        try:
            position = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            raise UserError(wanted) from None
        if position.shape != (len(self.low),) or not np.isfinite(position).all():
            raise UserError(wanted)
        return position.tolist()


@dataclass(frozen=True)
class Robot:
    """A robot that tasks are for. Simulators say how they model it under its name."""

    name: str
    control_hz: float


GOOGLE_ROBOT = Robot("google_robot", control_hz=3.0)
WIDOWX = Robot("widowx", control_hz=5.0)


@dataclass(frozen=True)
class Placed:
    """An object and where it is let go."""

    body: Body
    xy: tuple[float, float]  # m, world
    rest: Rest


DRAWERS = ("top", "middle", "bottom")  # of the cabinet, in the order of all arrays


@dataclass(frozen=True)
class Scene:
    """What stands where at the start of an episode.

    The first object is the one that the task is about; `info["state"]` and rules keep this order.
    """

    objects: tuple[Placed, ...]  # empty: the task is about a drawer alone
    base_xy: tuple[float, float]  # of the robot, m, world
    base_quaternion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)  # wxyz
    # How far each of DRAWERS stands open (m). None: a table, without drawers that move.
    drawers: tuple[float, float, float] | None = None
    station: Literal["table", "sink"] = "table"  # where the robot is set up, if it has several


class Task(ABC):
    """One task.

    `starts` are the options of an episode, in the order in which they are drawn; one of them is the
    Choice `variant`, the group in which reports count the episode.
    """

    name: str
    robot: Robot = GOOGLE_ROBOT
    max_episode_steps: int  # control steps
    starts: dict[str, Choice | Range]
    bodies: tuple[Body, ...]  # all that its scenes may contain
    simpler: SimplerBinding | None = None  # None: the task runs on the tabletop only
    surroundings: str = ""  # name of those of SIMPLER's variant aggregation; "": the task's own
    # What linear probes predict, of `evaluation.probe_frames.TARGETS`.
    targets: tuple[str, ...] = ("object_position", "object_axis", "gripper", "tool_position")

    def bound(self) -> SimplerBinding:
        """`simpler`. Raises UserError if the task does not run in SIMPLER."""
        if self.simpler is None:
            raise UserError(f"{self.name} runs on the tabletop only so far; use sim=tabletop")
        return self.simpler

    @property
    def variants(self) -> tuple[str, ...]:
        """The groups of episodes that reports tell apart."""
        variant = self.starts["variant"]
        assert isinstance(variant, Choice)
        return variant.values

    @abstractmethod
    def instructions(self, episode: Episode) -> tuple[str, ...]:
        """What the policy is told, a text for each stage of the episode (`Rule.stage`)."""

    @abstractmethod
    def scene(self, episode: Episode) -> Scene:
        """What stands where at the start of the episode."""

    @abstractmethod
    def rule(self, episode: Episode, settled: Seen) -> Rule:
        """The success rule of an episode whose objects rest as in `settled`.

        SIMPLER evaluates its own rule.
        """

    @abstractmethod
    def plan(self, episode: Episode) -> tuple[Skill, ...]:
        """What the scripted expert does, in order."""

    def grid(self) -> Sequence[Episode]:
        """The options of each episode of the official evaluation, in its order; may be empty.

        An evaluation adds the seed and, in SIMPLER, the robot's colours.
        """
        return ()

    def aggregation(self) -> Sequence["Task"]:
        """The task in each of the surroundings of SIMPLER's variant aggregation; may be empty.

        These are tasks of their own, which only SIMPLER plays, called `name@surroundings`.
        """
        return ()
