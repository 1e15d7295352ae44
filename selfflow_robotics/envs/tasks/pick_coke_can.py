"""SIMPLER's pick_coke_can: lift a can that stands or lies on the table."""

from itertools import product

import numpy as np

from selfflow_robotics.envs.simpler.binding import SimplerBinding
from selfflow_robotics.envs.simpler.surroundings import ON_TABLE, Surroundings
from selfflow_robotics.envs.tasks.base import (
    TABLE_BASE_XY,
    TABLE_XY,
    Choice,
    Episode,
    Placed,
    Scene,
    Task,
)
from selfflow_robotics.envs.tasks.objects import COKE_CAN
from selfflow_robotics.envs.tasks.plan import Pick
from selfflow_robotics.envs.tasks.rules import PICK_FLAGS, PickRule, Seen

# Our name for the can's orientation -> SIMPLER's.
ORIENTATIONS = {"standing": "upright", "horizontal": "lr_switch", "vertical": "laid_vertically"}
_GRID_POINTS = 5  # along each axis
# Fingers that close above the middle of a lying can slide off its round top (12 mm above, 3 of 10
# grasps hold in SIMPLER; 8 mm below, 16 of 16). Aiming lower leaves a margin for a policy's errors.
_LYING_AIM_BELOW_M = 0.007

_DISTRACTORS = "GraspSingleOpenedCokeCanDistractorInScene-v0"
_AGGREGATED = (
    *ON_TABLE,
    Surroundings(
        "few_distractors",
        ON_TABLE[0].stage,
        env_id=_DISTRACTORS,
        models=("opened_pepsi_can", "apple", "sponge", "orange"),
    ),
    Surroundings(
        "many_distractors",
        ON_TABLE[0].stage,
        {"distractor_config": "more"},
        env_id=_DISTRACTORS,
        models=(
            "opened_7up_can",
            "opened_sprite_can",
            "sponge",
            "orange",
            "opened_fanta_can",
            "bridge_spoon_generated_modified",
        ),
    ),
)


def _object_options(episode: Episode) -> dict:
    return {
        "init_xy": episode["object_xy"],
        "orientation": ORIENTATIONS[episode["variant"]],
    }


class PickCokeCan(Task):
    """`variant` is the can's orientation, `object_xy` its position (m, world)."""

    max_episode_steps = 80
    bodies = (COKE_CAN,)
    simpler = SimplerBinding(
        env_id="GraspSingleOpenedCokeCanInScene-v0",
        stage="google_pick_coke_can_1_v4",
        overlay="real_inpainting/google_coke_can_real_eval_1.png",
        object_options=_object_options,
        flags=PICK_FLAGS,
        models=("opened_coke_can",),
    )

    def __init__(
        self,
        orientations: tuple[str, ...] = tuple(ORIENTATIONS),
        surroundings: Surroundings | None = None,
    ) -> None:
        """orientations: the possible variants. surroundings: None for the usual scene."""
        chosen = f"{orientations[0]}_" if len(orientations) == 1 else ""
        self.name = f"pick_{chosen}coke_can"
        self.move_to(surroundings)
        self.starts = {"variant": Choice(orientations), "object_xy": TABLE_XY}

    def instructions(self, episode: Episode) -> tuple[str, ...]:
        return ("pick coke can",)

    def scene(self, episode: Episode) -> Scene:
        x, y = episode["object_xy"]
        can = Placed(COKE_CAN, (x, y), COKE_CAN.rests[episode["variant"]])
        return Scene((can,), base_xy=TABLE_BASE_XY)

    def rule(self, episode: Episode, settled: Seen) -> PickRule:
        return PickRule(settled.height(0))

    def plan(self, episode: Episode) -> tuple[Pick, ...]:
        return (Pick(lying_aim_below_m=_LYING_AIM_BELOW_M),)

    def grid(self) -> list[Episode]:
        """Each orientation at 5 x 5 positions (scripts/rt1_pick_coke_can_visual_matching.sh)."""
        xs, ys = np.linspace(TABLE_XY.low, TABLE_XY.high, _GRID_POINTS).round(6).T.tolist()
        return [
            {"variant": variant, "object_xy": [x, y]}
            for variant, x, y in product(self.variants, xs, ys)
        ]

    def aggregation(self) -> list["PickCokeCan"]:
        return [PickCokeCan(self.variants, surroundings) for surroundings in _AGGREGATED]
