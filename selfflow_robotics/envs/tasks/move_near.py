"""Move one of three objects on the table near another, named by the instruction.

Objects, layouts and the success rule are those of SIMPLER's google_robot_move_near
(ManiSkill2_real2sim envs/custom_scenes/move_near_in_scene.py). SIMPLER has two versions whose
objects look different: v1, to which its task names refer, and v0, which its visual-matching scripts
play. On the tabletop they are the same.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from selfflow_robotics.envs.simpler.binding import SimplerBinding
from selfflow_robotics.envs.simpler.surroundings import ON_TABLE, Surroundings
from selfflow_robotics.envs.tasks.base import Choice, Episode, Placed, Range, Scene, Task
from selfflow_robotics.envs.tasks.failures import (
    DROPPED,
    FELL,
    LOST,
    NEVER_MOVED,
    NOT_LIFTED,
    UNFINISHED,
    WRONG_OBJECT,
    Course,
    not_lifted,
    wrong_object,
)
from selfflow_robotics.envs.tasks.objects import (
    COKE_CAN,
    LYING_ALONG,
    PEPSI_CAN,
    Body,
    Rest,
    Shape,
    apple,
    ball,
    can,
    plastic_bottle,
    redbull_can,
)
from selfflow_robotics.envs.tasks.plan import Pick, Place, Skill
from selfflow_robotics.envs.tasks.rules import Seen
from selfflow_robotics.robot.rotations import from_wxyz

# As SIMPLER lists it, long along y; its mesh, as in pick_object, is long along x.
_SPONGE = Body(
    "sponge",
    size=(0.07, 0.10, 0.036),
    shapes=(Shape("box", (0.035, 0.05, 0.018), (0.85, 0.75, 0.20), mass=0.0349),),
    rests={"standing": Rest(LYING_ALONG, 0.018)},
)
# By their name in the instruction.
_OBJECTS = {
    "blue plastic bottle": plastic_bottle(),
    "pepsi can": PEPSI_CAN,
    "orange": ball("orange", 0.035, 0.0363, (0.95, 0.50, 0.05)),
    "7up can": can("7up_can", 0.0196, (0.10, 0.60, 0.20)),
    "apple": apple(),
    "sponge": _SPONGE,
    "coke can": COKE_CAN,
    "redbull can": redbull_can(),
}
_TRIPLETS = {
    "bottle-pepsi-orange": ("blue plastic bottle", "pepsi can", "orange"),
    "7up-apple-sponge": ("7up can", "apple", "sponge"),
    "coke-redbull-apple": ("coke can", "redbull can", "apple"),
    "sponge-bottle-7up": ("sponge", "blue plastic bottle", "7up can"),
    "orange-pepsi-redbull": ("orange", "pepsi can", "redbull can"),
}
_LAYOUTS = {
    "far-base": ((-0.33, 0.04), (-0.33, 0.34), (-0.13, 0.19)),
    "near-base": ((-0.13, 0.04), (-0.33, 0.19), (-0.13, 0.34)),
}
# Which of the triplet moves, and near which.
_ROLES = {"0-1": (0, 1), "0-2": (0, 2), "1-0": (1, 0), "1-2": (1, 2), "2-0": (2, 0), "2-1": (2, 1)}
_SHIFT_M = 0.02  # of the whole layout, along each axis
_BASE_YAW = -0.09
# A sponge is flat: fingers that aim at its middle hit the table.
_LYING_AIM_ABOVE_M = 0.008
# Held at its middle, an apple slips out.
_ROUND, _ROUND_AIM_BELOW_M = ("apple", "orange"), 0.01
_NEAR_M = 0.14
# The rule.
_GAP_M, _MOVED_M, _CLOSER_M = 0.10, 0.03, 0.01
_FALL_M, _FALL_OF_OTHERS_M = 0.15, 0.02
_NOT_NEAR = "not near the target"
_FLAGS = (
    "all_obj_keep_height",
    "moved_correct_obj",
    "moved_wrong_obj",
    "near_tgt_obj",
    "is_closest_to_tgt",
)
# SIMPLER's models of the objects. All but bottle and orange also have models with baked lighting,
# whose names differ between the versions.
_MODELS = {
    "blue plastic bottle": "blue_plastic_bottle",
    "pepsi can": "opened_pepsi_can",
    "orange": "orange",
    "7up can": "opened_7up_can",
    "apple": "apple",
    "sponge": "sponge",
    "coke can": "opened_coke_can",
    "redbull can": "opened_redbull_can",
}
_UNPAINTED = ("blue plastic bottle", "orange")
_PAINTED = {"v0": "baked_{}", "v1": "baked_{}_v2"}
_NO_DISTRACTOR = "no_distractor"
_AGGREGATED = (*ON_TABLE, Surroundings(_NO_DISTRACTOR, ON_TABLE[0].stage, {"no_distractor": True}))


def _object_options(episode: Episode) -> dict:
    triplet, layout, roles = (
        list(known).index(episode[name])
        for name, known in (("variant", _TRIPLETS), ("layout", _LAYOUTS), ("roles", _ROLES))
    )
    return {"episode_id": (triplet * len(_LAYOUTS) + layout) * len(_ROLES) + roles}


def _attributes(episode: Episode) -> dict:
    """SIMPLER's layouts, shifted."""
    dx, dy = episode["shift_xy"]
    return {
        "_xy_config_per_triplet": [
            tuple([x + dx, y + dy] for x, y in places) for places in _LAYOUTS.values()
        ]
    }


def _actors(simulation: Any) -> list[Any]:
    """Source, target and the third object."""
    source, target = simulation.episode_source_obj, simulation.episode_target_obj
    others = [actor for actor in simulation.episode_objs if actor not in (source, target)]
    return [source, target, *others]


class MoveNear(Task):
    """`variant` names the three objects, `roles` which of them moves near which."""

    max_episode_steps = 80
    starts = {  # noqa: RUF012
        "variant": Choice(tuple(_TRIPLETS)),
        "roles": Choice(tuple(_ROLES)),
        "layout": Choice(tuple(_LAYOUTS)),
        "shift_xy": Range((-_SHIFT_M, -_SHIFT_M), (_SHIFT_M, _SHIFT_M)),
    }
    bodies = tuple(_OBJECTS.values())
    targets = ("object_position", "gripper", "tool_position")
    failures = (
        *(NEVER_MOVED, NOT_LIFTED, DROPPED, WRONG_OBJECT),
        *(FELL, UNFINISHED, _NOT_NEAR, LOST),
    )

    def __init__(
        self, version: Literal["v0", "v1"] = "v1", surroundings: Surroundings | None = None
    ) -> None:
        """version: SIMPLER's. surroundings: None for the usual scene; others have no version."""
        self.name = "move_near" if version == "v1" else f"move_near_{version}"
        models = dict(_MODELS)
        if not surroundings:
            painted = _PAINTED[version]
            models |= {
                name: painted.format(model)
                for name, model in _MODELS.items()
                if name not in _UNPAINTED
            }
        self.simpler = SimplerBinding(
            env_id=f"MoveNearGoogleBakedTexInScene-{version}",
            stage="google_pick_coke_can_1_v4",
            overlay="real_inpainting/google_move_near_real_eval_1.png",
            object_options=_object_options,
            attributes=_attributes,
            objects=_actors,
            flags=_FLAGS,
            models=tuple(models.values()),
            models_of={
                triplet: tuple(models[name] for name in names)
                for triplet, names in _TRIPLETS.items()
            },
        )
        self.move_to(surroundings)
        if surroundings:
            self.simpler = replace(self.bound(), env_id="MoveNearGoogleInScene-v0")

    def instructions(self, episode: Episode) -> tuple[str, ...]:
        names = _TRIPLETS[episode["variant"]]
        source, target = _ROLES[episode["roles"]]
        return (f"move {names[source]} near {names[target]}",)

    def scene(self, episode: Episode) -> Scene:
        names, places = _TRIPLETS[episode["variant"]], _LAYOUTS[episode["layout"]]
        source, target = _ROLES[episode["roles"]]
        dx, dy = episode["shift_xy"]
        objects = []
        third = () if self.surroundings == _NO_DISTRACTOR else (3 - source - target,)
        for index in (source, target, *third):
            body, (x, y) = _OBJECTS[names[index]], places[index]
            objects.append(Placed(body, (x + dx, y + dy), body.rests["standing"]))
        half = _BASE_YAW / 2
        turned = (-math.sin(half), 0.0, 0.0, math.cos(half))  # yaw, then half a turn
        return Scene(tuple(objects), base_xy=(0.35, 0.21), base_quaternion=turned)

    def rule(self, episode: Episode, settled: Seen) -> "MoveNearRule":
        bodies = [item.body for item in self.scene(episode).objects]
        return MoveNearRule(
            settled.poses, [_extent(b, p) for b, p in zip(bodies, settled.poses, strict=True)]
        )

    def failure(self, episode: Episode, course: Course) -> str:
        if course.rises()[-1].min() < -_FALL_M:
            return FELL
        if wrong_object(course):
            return WRONG_OBJECT
        if course.shifts()[-1, 0] < _MOVED_M:
            return not_lifted(course) or UNFINISHED
        return LOST if course.succeeded else _NOT_NEAR

    def plan(self, episode: Episode) -> tuple[Skill, ...]:
        source, _ = _ROLES[episode["roles"]]
        if _TRIPLETS[episode["variant"]][source] in _ROUND:
            pick = Pick(lying_aim_below_m=_ROUND_AIM_BELOW_M, is_round=True)
        else:
            pick = Pick(lying_aim_below_m=-_LYING_AIM_ABOVE_M)
        return (pick, Place(distance_m=_NEAR_M))

    def grid(self) -> list[Episode]:
        """60 episodes: 5 triplets x 2 layouts x 6 roles."""
        return [
            {"variant": variant, "roles": roles, "layout": layout, "shift_xy": [0.0, 0.0]}
            for variant in _TRIPLETS
            for layout in _LAYOUTS
            for roles in _ROLES
        ]

    def aggregation(self) -> list["MoveNear"]:
        if self.name != "move_near":  # the other version has the same
            return []
        return [MoveNear(surroundings=surroundings) for surroundings in _AGGREGATED]


def _extent(body: Body, pose: np.ndarray) -> float:
    """Half the diagonal (m) of the object's bounding box, seen from above."""
    turned = np.abs(from_wxyz(pose[3:]).as_matrix()) * np.array(body.size)
    return math.hypot(*turned.sum(axis=1)[:2]) / 2


@dataclass
class MoveNearRule:
    """SIMPLER's rule: the source has moved, the target is its nearest object, and nothing fell."""

    settled: np.ndarray  # float64 [3, 7]: source, target, other
    extents: list[float]
    stage: int = 0

    def update(self, seen: Seen) -> dict:
        """After a control step: SIMPLER's info fields."""
        shifts = seen.poses - self.settled
        moved = [math.hypot(*shift[:2]) for shift in shifts]
        drops = [-float(shift[2]) for shift in shifts]
        to_target, to_other = (
            math.hypot(*(seen.poses[0] - seen.poses[item])[:2]) for item in (1, 2)
        )
        stats = {
            "all_obj_keep_height": max(drops[:2]) < _FALL_M and drops[2] < _FALL_OF_OTHERS_M,
            "moved_correct_obj": moved[0] > _MOVED_M and moved[0] > max(moved[1:]),
            "moved_wrong_obj": max(moved[1:]) > _MOVED_M and moved[0] < max(moved[1:]),
            "near_tgt_obj": to_target < self.extents[0] + self.extents[1] + _GAP_M,
            "is_closest_to_tgt": to_target < to_other + _CLOSER_M,
        }
        success = all(value for name, value in stats.items() if name != "moved_wrong_obj")
        return {"success": success, "episode_stats": stats}
