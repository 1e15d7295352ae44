"""The interface of a task: all that simulators, experts, protocols and probes need to know of it.

A task is a subclass of `Task` in a file of its own in this folder, and a row in `catalog.TASKS`;
docs/tasks.md has an example. Its methods are functions of the episode, the JSON-able dict that
`envs.episodes.draw_start` draws from a seed, so both simulators set up the same episode. Tasks also
run in the simulators' processes, so they import neither torch nor a simulator.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from selfflow_robotics.envs.simpler.binding import SimplerBinding
from selfflow_robotics.envs.simpler.surroundings import Surroundings
from selfflow_robotics.envs.tasks.failures import LIFTING, OTHER, UNFINISHED, Course, not_lifted
from selfflow_robotics.envs.tasks.objects import Body, Rest
from selfflow_robotics.envs.tasks.plan import Skill
from selfflow_robotics.envs.tasks.rules import Rule, Seen
from selfflow_robotics.errors import UserError

Episode = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """An option of an episode: one of several strings, with equal probability."""

    values: tuple[str, ...]

    def draw(self, rng: np.random.Generator) -> str:
        """Draw one of the values."""
        return self.values[int(rng.integers(len(self.values)))]

    def check(self, name: str, value: Any) -> str:
        """`value`, the option called `name`. Raises UserError if it is not one of the values."""
        if value not in self.values:
            raise UserError(f"unknown {name} {value!r}; known: {', '.join(self.values)}")
        return value


@dataclass(frozen=True)
class Range:
    """An option of an episode: a position, uniform between two corners (m, world)."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    room_m: float = math.inf  # a draw is at most this far outside the corners

    def draw(self, rng: np.random.Generator, margin_m: float = 0.0) -> list[float]:
        """Draw a position, at most `margin_m` (and at most `room_m`) outside the corners."""
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
    """A robot. Simulators define it under its name (`ROBOTS` in each of them)."""

    name: str
    control_hz: float


GOOGLE_ROBOT = Robot("google_robot", control_hz=3.0)
WIDOWX = Robot("widowx", control_hz=5.0)


@dataclass(frozen=True)
class Placed:
    """An object and its pose at the start of an episode."""

    body: Body
    xy: tuple[float, float]  # m, world
    rest: Rest


DRAWERS = ("top", "middle", "bottom")  # of the cabinet, in the order of all arrays


@dataclass(frozen=True)
class Scene:
    """The objects, robot and furniture at the start of an episode.

    The first object is the one that the task is about; `info["state"]`, rules and skills use the
    same order.
    """

    objects: tuple[Placed, ...]  # empty: the task is about a drawer alone
    base_xy: tuple[float, float]  # of the robot, m, world
    base_quaternion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)  # wxyz
    # How far each of DRAWERS is open (m): a cabinet. None: a table or a sink.
    drawers: tuple[float, float, float] | None = None
    station: Literal["table", "sink"] = "table"  # of WidowX


# The google robot at the table: its place, and where it picks objects up (m, world).
TABLE_BASE_XY = (0.35, 0.20)
TABLE_XY = Range((-0.35, -0.02), (-0.12, 0.42))


class Task(ABC):
    """One task.

    `starts` has the options of an episode, drawn from its seed in this order. One of them must be a
    Choice called `variant`: reports show a success rate for each variant.
    """

    name: str
    robot: Robot = GOOGLE_ROBOT
    max_episode_steps: int  # control steps
    # How long a demonstration goes on after success. It should end in a state that the policy can
    # stay in: with 3 steps, policies let go of a lifted can again.
    hold_steps: int = 8
    starts: dict[str, Choice | Range]
    bodies: tuple[Body, ...]  # all objects that its scenes may contain
    simpler: SimplerBinding | None = None  # None: the task runs on the tabletop only
    surroundings: str = ""  # variation of SIMPLER's variant aggregation; "": the usual scene
    # What linear probes predict: names in `evaluation.probing.frames.TARGETS`.
    targets: tuple[str, ...] = ("object_position", "object_axis", "gripper", "tool_position")
    # What `failure` may say, from the least to the most that was done.
    failures: tuple[str, ...] = (*LIFTING, OTHER)

    def bound(self) -> SimplerBinding:
        """`simpler`. Raises UserError if the task does not run in SIMPLER."""
        if self.simpler is None:
            raise UserError(f"{self.name} runs on the tabletop only; use sim=tabletop")
        return self.simpler

    def move_to(self, surroundings: Surroundings | None) -> None:
        """Become the task in these surroundings, `name@variation`; None: stay the usual one."""
        if surroundings:
            self.surroundings = surroundings.name
            self.name += f"@{surroundings.name}"
            self.simpler = surroundings.of(self.bound())

    @property
    def variants(self) -> tuple[str, ...]:
        """The values of `variant`, the groups of episodes in reports."""
        variant = self.starts["variant"]
        assert isinstance(variant, Choice)
        return variant.values

    @abstractmethod
    def instructions(self, episode: Episode) -> tuple[str, ...]:
        """The instruction for each stage of the episode (`Rule.stage`); most tasks have one."""

    @abstractmethod
    def scene(self, episode: Episode) -> Scene:
        """The scene at the start of the episode."""

    @abstractmethod
    def rule(self, episode: Episode, settled: Seen) -> Rule:
        """The success rule of an episode; `settled` is the state after the objects came to rest.

        In SIMPLER, SIMPLER's own rule is used instead.
        """

    def failure(self, episode: Episode, course: Course) -> str:
        """How an episode failed that did not succeed at its last step, one of `failures`.

        By default: how far it came with lifting the first object.
        """
        if not course.poses.shape[1]:
            return OTHER
        return not_lifted(course) or UNFINISHED

    @abstractmethod
    def plan(self, episode: Episode) -> tuple[Skill, ...]:
        """The scripted expert's skills, in order."""

    def grid(self) -> Sequence[Episode]:
        """The options of each episode of the official evaluation, in its order; may be empty.

        An evaluation adds the seed and, in SIMPLER, the robot's colours.
        """
        return ()

    def aggregation(self) -> Sequence["Task"]:
        """The task in each variation of SIMPLER's variant aggregation; may be empty.

        These are tasks of their own, called `name@variation`, and run in SIMPLER only.
        """
        return ()
