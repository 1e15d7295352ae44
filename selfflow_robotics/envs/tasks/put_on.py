"""What SIMPLER's WidowX tasks share: put one object on another
(ManiSkill2_real2sim envs/custom_scenes/put_on_in_scene.py)."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

from selfflow_robotics.envs.simpler.binding import SimplerBinding
from selfflow_robotics.envs.tasks.base import WIDOWX, Choice, Episode, Placed, Range, Scene, Task
from selfflow_robotics.envs.tasks.failures import (
    LIFTING,
    LOST,
    UNFINISHED,
    WRONG_OBJECT,
    Course,
    not_lifted,
    wrong_object,
)
from selfflow_robotics.envs.tasks.objects import UNTURNED, Body, Quaternion
from selfflow_robotics.envs.tasks.plan import Grasp, PutOn, Skill
from selfflow_robotics.envs.tasks.rules import CONSECUTIVE_GRASP_STEPS, Seen, is_grasped
from selfflow_robotics.robot.rotations import from_wxyz

# The corners of a square by the signs of x and y, and all ordered pairs of corners: the object's
# and the goal's.
_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
PLACES = {f"{a}-{b}": (a, b) for a in range(4) for b in range(4) if a != b}
MIDDLE = (-0.16, 0.0)  # of the squares, m, world
SHIFT_M = 0.02  # of the whole layout, along each axis
# Demonstrations may shift it further by this, which stays within the arm's reach.
SHIFT_ROOM_M = 0.02
_HALF_EDGE_M = 0.075  # of the square of `PutOnTableTask`

FLAGS = (
    "moved_correct_obj",
    "moved_wrong_obj",
    "is_src_obj_grasped",
    "consecutive_grasp",
    "src_on_target",
)
_MAX_GRASP_ANGLE_DEG = 60.0  # of WidowX's fingers
_MOVED_M, _BEYOND_M = 0.03, 0.003

TABLE: dict[str, Any] = {
    "stage": "bridge_table_1_v1",
    "overlay": "real_inpainting/bridge_real_eval_1.png",
}


def corners(half_edge_m: float, places: str, shift: list[float]) -> list[tuple[float, float]]:
    """Positions of the object and its goal (xy, m, world): two corners of a square."""
    (x, y), (dx, dy) = MIDDLE, shift
    return [
        (half_edge_m * _CORNERS[i][0] + x + dx, half_edge_m * _CORNERS[i][1] + y + dy)
        for i in PLACES[places]
    ]


def about_z(degrees: float) -> Quaternion:
    """A rotation about the vertical axis, wxyz."""
    half = math.radians(degrees) / 2
    return (math.cos(half), 0.0, 0.0, math.sin(half))


class PutOnTask(Task):
    """WidowX puts one object on or into another, the goal.

    Subclasses define the two bodies and their initial poses, which SIMPLER uses too.
    """

    robot = WIDOWX
    max_episode_steps = 60
    targets = ("object_position", "gripper", "tool_position")
    failures = (WRONG_OBJECT, *LIFTING, LOST)
    words: str  # the instruction
    clearance_m = 0.02  # largest vertical gap between the two on success
    may_touch_others = False  # whether the object may touch something besides its goal on success
    grasp = Grasp()
    put = PutOn()
    base_xy = (0.147, 0.028)  # of the robot, m, world
    station: Literal["table", "sink"] = "table"

    @abstractmethod
    def places(self, episode: Episode) -> list[tuple[float, float]]:
        """Initial positions of the object and its goal (xy, m, world)."""

    def turn(self, episode: Episode) -> Quaternion:
        """Initial rotation (wxyz) of the object; the goal is not rotated."""
        return UNTURNED

    def instructions(self, episode: Episode) -> tuple[str, ...]:
        return (self.words,)

    def scene(self, episode: Episode) -> Scene:
        (source, goal), (first, second) = self.bodies, self.places(episode)
        return Scene(
            (
                Placed(source, first, source.rests[episode["variant"]]),
                Placed(goal, second, goal.rests["flat"]),
            ),
            base_xy=self.base_xy,
            station=self.station,
        )

    def rule(self, episode: Episode, settled: Seen) -> "PutOnRule":
        source, goal = self.bodies
        return PutOnRule(settled, source, goal, self.clearance_m, self.may_touch_others)

    def failure(self, episode: Episode, course: Course) -> str:
        if wrong_object(course):
            return WRONG_OBJECT
        if course.succeeded:
            return LOST
        return not_lifted(course) or UNFINISHED

    def plan(self, episode: Episode) -> tuple[Skill, ...]:
        return (self.grasp, self.put)

    def binding(self, env_id: str, models: tuple[str, ...], **more: Any) -> SimplerBinding:
        """SIMPLER's settings; its own layouts are replaced by the task's."""
        return SimplerBinding(
            env_id=env_id,
            object_options=lambda episode: {"episode_id": 0},
            attributes=lambda episode: {
                "_xy_configs": [[list(xy) for xy in self.places(episode)]],
                "_quat_configs": [[list(self.turn(episode)), list(UNTURNED)]],
            },
            objects=lambda simulation: [
                simulation.episode_source_obj,
                simulation.episode_target_obj,
            ],
            flags=FLAGS,
            models=models,
            **more,
        )


class PutOnTableTask(PutOnTask):
    """The object lies lengthwise or crosswise, and both are at corners of a square of 15 cm.

    `variant` is the object's orientation, `places` the two corners, `shift_xy` a shift of both (m).
    """

    turns: dict[str, Quaternion]  # the object's, by variant
    starts = {  # noqa: RUF012
        "variant": Choice(("lengthwise", "crosswise")),  # seen by the robot
        "places": Choice(tuple(PLACES)),
        "shift_xy": Range((-SHIFT_M, -SHIFT_M), (SHIFT_M, SHIFT_M), SHIFT_ROOM_M),
    }

    def places(self, episode: Episode) -> list[tuple[float, float]]:
        return corners(_HALF_EDGE_M, episode["places"], episode["shift_xy"])

    def turn(self, episode: Episode) -> Quaternion:
        return self.turns[episode["variant"]]

    def grid(self) -> list[Episode]:
        """24 episodes: 12 pairs of corners x 2 turns."""
        return [
            {"variant": variant, "places": places, "shift_xy": [0.0, 0.0]}
            for places in PLACES
            for variant in self.variants
        ]


@dataclass
class PutOnRule:
    """SIMPLER's rule: the object is above the goal, close to it, and touches nothing else."""

    settled: Seen
    source: Body
    goal: Body
    clearance_m: float
    may_touch_others: bool
    stage: int = 0
    grasp_steps: int = 0
    ever: dict[str, bool] = field(
        default_factory=lambda: {"is_src_obj_grasped": False, "consecutive_grasp": False}
    )

    def update(self, seen: Seen) -> dict[str, Any]:
        """After a control step: SIMPLER's info fields."""
        shifts = seen.poses - self.settled.poses
        source_moved, goal_moved = (math.hypot(*shift[:2]) for shift in shifts)
        grasped = is_grasped(seen.touches[0], _MAX_GRASP_ANGLE_DEG)
        self.grasp_steps = self.grasp_steps + 1 if grasped else 0
        consecutive = self.grasp_steps >= CONSECUTIVE_GRASP_STEPS
        # As in SIMPLER, the bounding box's size is rotated as if it were a vector.
        source_half, goal_half = (
            from_wxyz(pose[3:]).apply(body.size) / 2
            for pose, body in zip(self.settled.poses, (self.source, self.goal), strict=True)
        )
        offset = seen.poses[0][:3] - seen.poses[1][:3]
        is_on = (
            math.hypot(*offset[:2]) <= math.hypot(*goal_half[:2]) + _BEYOND_M
            and offset[2] > 0
            and offset[2] - goal_half[2] - source_half[2] <= self.clearance_m
        )
        if not self.may_touch_others:
            is_on = is_on and not seen.touches[0].others - {self.goal.name}
        flags = {
            "moved_correct_obj": source_moved > _MOVED_M and goal_moved < source_moved,
            "moved_wrong_obj": goal_moved > _MOVED_M and goal_moved > source_moved,
            "is_src_obj_grasped": grasped,
            "consecutive_grasp": consecutive,
            "src_on_target": bool(is_on),
        }
        for name in self.ever:
            self.ever[name] |= flags[name]
        return {"success": bool(is_on), **flags, "episode_stats": {**flags, **self.ever}}
