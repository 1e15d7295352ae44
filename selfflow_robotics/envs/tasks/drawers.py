"""SIMPLER's google_robot_open_drawer and google_robot_close_drawer, and their versions for one
drawer (ManiSkill2_real2sim envs/custom_scenes/open_drawer_in_scene.py)."""

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from selfflow_robotics.envs.simpler.binding import SimplerBinding
from selfflow_robotics.envs.simpler.surroundings import AT_CABINET, Surroundings
from selfflow_robotics.envs.tasks.base import DRAWERS, Choice, Episode, Placed, Scene, Task
from selfflow_robotics.envs.tasks.failures import (
    DRAWER_MOVED_M,
    NEVER_MOVED,
    WRONG_DRAWER,
    Course,
    wrong_drawer,
)
from selfflow_robotics.envs.tasks.plan import Pull, Push
from selfflow_robotics.envs.tasks.rules import Seen

# The nine positions of the robot's base: x, y (m) and yaw (rad).
STANDS = {
    "a0": (0.644, -0.179, -0.03),
    "a1": (0.765, -0.182, -0.02),
    "a2": (0.889, -0.203, -0.06),
    "b0": (0.652, 0.009, 0.0),
    "b1": (0.752, 0.009, 0.0),
    "b2": (0.851, 0.035, 0.0),
    "c0": (0.665, 0.224, 0.0),
    "c1": (0.765, 0.222, -0.025),
    "c2": (0.865, 0.222, -0.025),
}
# The same for SIMPLER's variant aggregation.
AGGREGATION_STANDS = {
    f"x{x}_y{y}": (x, y, 0.0) for x in (0.65, 0.75, 0.85) for y in (-0.2, 0.0, 0.2)
}
# SIMPLER's settings for visual matching at the cabinet, but rasterised: ray tracing takes minutes
# per frame on a CPU.
CABINET: dict[str, Any] = {
    "stage": "dummy_drawer",
    "files": ("custom/mk_station_recolor.urdf",),
    "settings": {
        "station_name": "mk_station_recolor",
        "light_mode": "simple",
        "disable_bad_material": True,
    },
    "remark": (
        "SIMPLER's cabinet was rasterised. SIMPLER's own evaluation uses ray tracing, so shadows "
        "in its images differ."
    ),
}
_OPEN_FROM_M, _SHUT_UP_TO_M = 0.15, 0.05  # success
_AJAR_M = 0.2  # at the start of closing
_LAST_FAILURES = {
    "open": ("opened too little", "opened then closed"),
    "close": ("closed too little", "closed then opened"),
}


class Drawer(Task):
    """Open or close a drawer. `variant` is the drawer, `stand` the position of the robot."""

    max_episode_steps = 113
    bodies = ()
    targets = ("drawers", "gripper", "tool_position")

    def __init__(
        self,
        verb: Literal["open", "close"],
        drawers: tuple[str, ...] = DRAWERS,
        surroundings: Surroundings | None = None,
    ) -> None:
        """drawers: the possible variants. surroundings: None for the usual scene."""
        self.verb: Literal["open", "close"] = verb
        if verb == "open":
            # To the end of the episode: an open drawer is also what `close_drawer` starts from, and
            # policies push it shut at steps that no demonstration of opening reaches.
            self.hold_steps = self.max_episode_steps
        self.failures = (NEVER_MOVED, WRONG_DRAWER, *_LAST_FAILURES[verb])
        self.name = "_".join((verb, *(drawers if len(drawers) == 1 else ()), "drawer"))
        self.stands = tuple(AGGREGATION_STANDS if surroundings else STANDS)
        self.starts = {"variant": Choice(drawers), "stand": Choice(self.stands)}
        self.simpler = SimplerBinding(
            env_id=f"{verb.capitalize()}DrawerCustomInScene-v0",
            overlay="real_inpainting/open_drawer_{stand}.png",
            attributes=lambda episode: {"drawer_ids": [episode["variant"]]},
            objects=lambda simulation: [],
            **CABINET,
        )
        self.move_to(surroundings)

    def instructions(self, episode: Episode) -> tuple[str, ...]:
        return (f"{self.verb} {episode['variant']} drawer",)

    def scene(self, episode: Episode) -> Scene:
        ajar = _AJAR_M if self.verb == "close" else 0.0
        top, middle, bottom = (ajar * (name == episode["variant"]) for name in DRAWERS)
        return scene_at(episode["stand"], drawers=(top, middle, bottom))

    def rule(self, episode: Episode, settled: Seen) -> "DrawerRule":
        return DrawerRule(DRAWERS.index(episode["variant"]), self.verb == "open")

    def failure(self, episode: Episode, course: Course) -> str:
        assert course.drawers is not None
        drawer = DRAWERS.index(episode["variant"])
        *_, too_little, lost = self.failures
        if wrong_drawer(course, drawer):
            return WRONG_DRAWER
        if course.succeeded:
            return lost
        opening = course.drawers[:, drawer]
        moved = abs(opening - opening[0]).max()
        return too_little if moved > DRAWER_MOVED_M else NEVER_MOVED

    def plan(self, episode: Episode) -> tuple[Pull | Push, ...]:
        drawer = DRAWERS.index(episode["variant"])
        return (Pull(drawer) if self.verb == "open" else Push(drawer),)

    def grid(self) -> list[Episode]:
        """Each drawer from nine positions (scripts/rt1_drawer_visual_matching.sh)."""
        return [
            {"variant": drawer, "stand": stand}
            for drawer, stand in product(self.variants, self.stands)
        ]

    def aggregation(self) -> list["Drawer"]:
        return [Drawer(self.verb, self.variants, surroundings) for surroundings in AT_CABINET]


def scene_at(
    stand: str, drawers: tuple[float, float, float], objects: tuple[Placed, ...] = ()
) -> Scene:
    """The cabinet, with the robot at one of STANDS or AGGREGATION_STANDS."""
    x, y, yaw = (STANDS | AGGREGATION_STANDS)[stand]
    turned = (-math.sin(yaw / 2), 0.0, 0.0, math.cos(yaw / 2))  # yaw, then half a turn
    return Scene(objects, base_xy=(x, y), base_quaternion=turned, drawers=drawers)


@dataclass
class DrawerRule:
    """SIMPLER's rule: the drawer is open by at least 15 cm, or closed to within 5 cm."""

    drawer: int
    opens: bool
    stage: int = 0

    def update(self, seen: Seen) -> dict:
        """After a control step: SIMPLER's info fields."""
        assert seen.drawers is not None
        opening = float(seen.drawers[self.drawer])
        success = opening >= _OPEN_FROM_M if self.opens else opening <= _SHUT_UP_TO_M
        return {"success": success, "qpos": opening, "episode_stats": {"qpos": f"{opening:.3f}"}}
