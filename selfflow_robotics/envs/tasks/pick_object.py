"""SIMPLER's google_robot_pick_object: lift one of 14 objects, named by the instruction
(ManiSkill2_real2sim envs/custom_scenes/grasp_single_in_scene.py)."""

from selfflow_robotics.envs.simpler.binding import SimplerBinding
from selfflow_robotics.envs.tasks.base import (
    TABLE_BASE_XY,
    TABLE_XY,
    Choice,
    Episode,
    Placed,
    Scene,
    Task,
)
from selfflow_robotics.envs.tasks.objects import (
    COKE_CAN,
    PEPSI_CAN,
    Body,
    apple,
    ball,
    can,
    cuboid,
    plastic_bottle,
    redbull_can,
    rod,
)
from selfflow_robotics.envs.tasks.pick_coke_can import ORIENTATIONS
from selfflow_robotics.envs.tasks.plan import Pick
from selfflow_robotics.envs.tasks.rules import PICK_FLAGS, PickRule, Seen

_CUBE = (0.03, 0.03, 0.03)
# Name in the instruction -> SIMPLER's model, and ours of primitive shapes with the same mass. The
# spoon, carrot and eggplant are rods, which lie in every pose, unlike those of WidowX's tasks.
_OBJECTS: dict[str, tuple[str, Body]] = {
    "pepsi can": ("opened_pepsi_can", PEPSI_CAN),
    "coke can": ("opened_coke_can", COKE_CAN),
    "sprite can": ("opened_sprite_can", can("sprite_can", 0.0203, (0.05, 0.50, 0.20))),
    "fanta can": ("opened_fanta_can", can("fanta_can", 0.0203, (0.95, 0.45, 0.05))),
    "redbull can": ("opened_redbull_can", redbull_can(mass=0.0179)),
    "blue plastic bottle": ("blue_plastic_bottle", plastic_bottle()),
    "apple": ("apple", apple(mass=0.2144)),
    "orange": ("orange", ball("orange", 0.035, 0.1451, (0.95, 0.50, 0.05))),
    "sponge": ("sponge", cuboid("sponge", (0.101, 0.071, 0.037), 0.0349, (0.85, 0.75, 0.20))),
    "spoon": (
        "bridge_spoon_generated_modified",
        rod("spoon", 0.14, 0.011, 0.0431, (0.30, 0.55, 0.35)),
    ),
    "carrot": (
        "bridge_carrot_generated_modified",
        rod("carrot", 0.115, 0.017, 0.0547, (0.95, 0.45, 0.10)),
    ),
    "green cube": ("green_cube_3cm", cuboid("green_cube", _CUBE, 0.027, (0.10, 0.60, 0.15))),
    "yellow cube": ("yellow_cube_3cm", cuboid("yellow_cube", _CUBE, 0.027, (0.90, 0.80, 0.10))),
    "eggplant": ("eggplant", rod("eggplant", 0.078, 0.0187, 0.0209, (0.30, 0.10, 0.35))),
}
# Can be grasped from any side.
_ROUND = ("apple", "orange", "green cube", "yellow cube")
# Long along x, which is horizontal in every pose. The others are long along y.
_FLAT = ("sponge", "spoon", "carrot", "eggplant")
# Height above the table at which lying objects are grasped: higher up, the fingers slide off.
_AIM_M, _FLAT_AIM_M = 0.026, 0.010


class PickObject(Task):
    """`variant` is the object, `orientation` its initial pose (named as for a can), `object_xy` its
    position (m, world)."""

    name = "pick_object"
    max_episode_steps = 80
    starts = {  # noqa: RUF012
        "variant": Choice(tuple(_OBJECTS)),
        "orientation": Choice(tuple(ORIENTATIONS)),
        "object_xy": TABLE_XY,
    }
    bodies = tuple(body for _, body in _OBJECTS.values())
    targets = ("object_position", "gripper", "tool_position")
    simpler = SimplerBinding(
        env_id="GraspSingleRandomObjectInScene-v0",
        stage="google_pick_coke_can_1_v4",
        overlay="real_inpainting/google_coke_can_real_eval_1.png",
        object_options=lambda episode: {
            "init_xy": episode["object_xy"],
            "orientation": ORIENTATIONS[episode["orientation"]],
        },
        attributes=lambda episode: {"model_ids": [_OBJECTS[episode["variant"]][0]]},
        flags=PICK_FLAGS,
        models=tuple(model for model, _ in _OBJECTS.values()),
        models_of={name: (model,) for name, (model, _) in _OBJECTS.items()},
    )

    def instructions(self, episode: Episode) -> tuple[str, ...]:
        return (f"pick {episode['variant']}",)

    def scene(self, episode: Episode) -> Scene:
        _, body = _OBJECTS[episode["variant"]]
        x, y = episode["object_xy"]
        placed = Placed(body, (x, y), body.rests[episode["orientation"]])
        return Scene((placed,), base_xy=TABLE_BASE_XY)

    def rule(self, episode: Episode, settled: Seen) -> PickRule:
        return PickRule(settled.height(0))

    def plan(self, episode: Episode) -> tuple[Pick, ...]:
        name = episode["variant"]
        _, body = _OBJECTS[name]
        if name in _FLAT:
            height = body.rests[episode["orientation"]].height
            return (Pick(lying_aim_below_m=height - _FLAT_AIM_M, long_axis="x", is_flat=True),)
        below = body.rests["horizontal"].height - _AIM_M
        return (Pick(lying_aim_below_m=below, is_round=name in _ROUND),)
