"""SIMPLER's google_robot_place_apple_in_closed_top_drawer: open the drawer, then put the apple in
(ManiSkill2_real2sim envs/custom_scenes/place_in_closed_drawer_in_scene.py)."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from selfflow_robotics.envs.simpler.binding import SimplerBinding
from selfflow_robotics.envs.simpler.surroundings import AT_CABINET, Surroundings
from selfflow_robotics.envs.tasks.base import DRAWERS, Choice, Episode, Placed, Range, Scene, Task
from selfflow_robotics.envs.tasks.drawers import AGGREGATION_STANDS, CABINET, scene_at
from selfflow_robotics.envs.tasks.failures import (
    LIFTING,
    UNFINISHED,
    WRONG_DRAWER,
    Course,
    not_lifted,
    wrong_drawer,
)
from selfflow_robotics.envs.tasks.objects import apple
from selfflow_robotics.envs.tasks.plan import Hover, Pick, Pull, PutInto, Skill
from selfflow_robotics.envs.tasks.rules import Seen

_MODEL, _AGGREGATION_MODEL = "baked_apple_v2", "apple"
_AGGREGATION_STANDS = tuple(AGGREGATION_STANDS)[:3]  # those nearest to the cabinet
_APPLE = apple(mass=0.2144)
_DRAWER = DRAWERS.index("top")
_BOTTOM = "top_drawer_bottom"  # the body that the apple touches when it lies in the drawer
_X_M, _Y_M = (-0.10, -0.05), (0.0, 0.10)
_GRID_X_M, _GRID_Y_M, _GRID_POINTS = (-0.08, -0.02), (-0.02, 0.08), 3
_FORCED_AFTER_STEPS = 100  # the second stage begins, whether the drawer is open or not
_OPEN_FROM_M, _AJAR_FROM_M = 0.15, 0.05
# Where the expert waits and rotates its wrist from pulling to grasping. Nearer to the robot, which
# is far to the side at stand a0, the wrist would rotate the other way and get stuck.
_HOVER_M = (0.1, 0.1, 1.0)
_NOT_OPENED, _SHUT_AGAIN = "drawer not opened", "drawer opened then closed"
_AIM_BELOW_M = 0.01  # grasp below the middle of the apple, where it would slip out


class PlaceAppleInDrawer(Task):
    """`variant` is the robot's position (`drawers.STANDS`), `object_xy` the apple's on the cabinet
    (m, world).

    The instruction changes after step 100, even if the drawer is open earlier. Until then the
    expert waits: demonstrations never move the apple while the instruction is about the drawer.
    """

    name = "place_apple_in_closed_top_drawer"
    max_episode_steps = 200
    starts = {  # noqa: RUF012
        "variant": Choice(("a0", "b0", "c0")),
        "object_xy": Range((_X_M[0], _Y_M[0]), (_X_M[1], _Y_M[1])),
    }
    bodies = (_APPLE,)
    targets = ("object_position", "drawers", "gripper", "tool_position")
    failures = (_NOT_OPENED, WRONG_DRAWER, _SHUT_AGAIN, *LIFTING)
    simpler = SimplerBinding(
        env_id="PlaceIntoClosedTopDrawerCustomInScene-v0",
        overlay="real_inpainting/open_drawer_{variant}.png",
        object_options=lambda episode: {"init_xy": episode["object_xy"]},
        models=(_MODEL,),
        **{**CABINET, "settings": {**CABINET["settings"], "model_ids": [_MODEL]}},
    )

    def __init__(self, surroundings: Surroundings | None = None) -> None:
        """surroundings: None for the usual scene."""
        self.move_to(surroundings)
        if surroundings:
            binding = self.bound()
            self.simpler = replace(
                binding,
                settings={**binding.settings, "model_ids": [_AGGREGATION_MODEL]},
                models=(_AGGREGATION_MODEL,),
            )
            self.starts = {**self.starts, "variant": Choice(_AGGREGATION_STANDS)}

    def instructions(self, episode: Episode) -> tuple[str, ...]:
        return "open top drawer", "place apple into top drawer"

    def scene(self, episode: Episode) -> Scene:
        x, y = episode["object_xy"]
        placed = Placed(_APPLE, (x, y), _APPLE.rests["standing"])
        return scene_at(episode["variant"], drawers=(0.0, 0.0, 0.0), objects=(placed,))

    def rule(self, episode: Episode, settled: Seen) -> "PlaceInDrawerRule":
        return PlaceInDrawerRule()

    def failure(self, episode: Episode, course: Course) -> str:
        """The drawer first: without it, the apple has nowhere to go."""
        assert course.drawers is not None
        opening = course.drawers[:, _DRAWER]
        if opening.max() < _OPEN_FROM_M:
            return WRONG_DRAWER if wrong_drawer(course, _DRAWER) else _NOT_OPENED
        if opening[-1] < _AJAR_FROM_M:
            return _SHUT_AGAIN
        return not_lifted(course) or UNFINISHED

    def plan(self, episode: Episode) -> tuple[Skill, ...]:
        return (
            Pull(_DRAWER),
            Hover(until_step=_FORCED_AFTER_STEPS + 1, place_m=_HOVER_M),
            Pick(lying_aim_below_m=_AIM_BELOW_M, is_round=True),
            PutInto(item=0, drawer=_DRAWER),
        )

    def grid(self) -> list[Episode]:
        """3 stands x 3 x 3 positions (scripts/rt1_put_in_drawer_visual_matching.sh)."""
        xs, ys = (
            np.linspace(*ends, _GRID_POINTS).round(6).tolist() for ends in (_GRID_X_M, _GRID_Y_M)
        )
        return [
            {"variant": stand, "object_xy": [x, y]}
            for stand, x, y in product(self.variants, xs, ys)
        ]

    def aggregation(self) -> list["PlaceAppleInDrawer"]:
        return [PlaceAppleInDrawer(surroundings) for surroundings in AT_CABINET]


@dataclass
class PlaceInDrawerRule:
    """SIMPLER's rule: in stage 1, the drawer is ajar and the apple has touched its bottom."""

    stage: int = 0
    steps: int = 0
    contact_steps: int = 0
    was_open: bool = False

    def update(self, seen: Seen) -> dict:
        """After a control step: SIMPLER's info fields."""
        assert seen.drawers is not None
        # The second stage begins with the step after the last one of the first stage.
        self.stage = int(self.steps >= _FORCED_AFTER_STEPS)
        self.steps += 1
        opening = float(seen.drawers[_DRAWER])
        self.was_open |= opening >= _OPEN_FROM_M
        self.contact_steps += _BOTTOM in seen.touches[0].others
        return {
            "success": self.stage == 1 and opening >= _AJAR_FROM_M and self.contact_steps > 0,
            "episode_stats": {
                "qpos": opening,
                "is_drawer_open": self.was_open,
                "has_contact": self.contact_steps,
            },
        }
