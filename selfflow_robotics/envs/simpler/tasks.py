"""The SIMPLER configuration of our tasks. Add a row for a new task of the same kind.

The values are those of SIMPLER's visual matching set-up, its `prepackaged_config`
(mani_skill2_real2sim/envs/custom_scenes). The switch itself is not used: it also redraws the
robot's colours at each reset and overrides the caller's choice.
"""

from dataclasses import dataclass

# In SIMPLER's terms: the arm target is (measured tool pose + delta), the fingers' (target + delta).
CONTROL_MODE = (
    "arm_pd_ee_delta_pose_align_interpolate_by_planner_"
    "gripper_pd_joint_target_delta_pos_interpolate_by_planner"
)
ROBOT = "google_robot_static"
CAMERA = "overhead_camera"
SIM_HZ, CONTROL_HZ = 513, 3
# The robot in four colours (URDF versions); "base" is the uncoloured one, SIMPLER's "".
ROBOT_VARIANTS = (
    "base",
    "recolor_tabletop_visual_matching_1",
    "recolor_tabletop_visual_matching_2",
    "recolor_cabinet_visual_matching_1",
)


@dataclass(frozen=True)
class SimplerTask:
    """SIMPLER's settings for one of our tasks."""

    env_id: str
    scene: str
    overlay: str  # photograph behind robot and object, in the asset folder
    robot_xy_m: tuple[float, float]  # base in the world
    robot_quaternion: tuple[float, float, float, float]  # wxyz
    orientations: dict[str, str]  # our variant -> SIMPLER's orientation of the object


SIMPLER_TASKS = {
    "pick_coke_can": SimplerTask(
        env_id="GraspSingleOpenedCokeCanInScene-v0",
        scene="google_pick_coke_can_1_v4",
        overlay="real_inpainting/google_coke_can_real_eval_1.png",
        robot_xy_m=(0.35, 0.20),
        robot_quaternion=(0.0, 0.0, 0.0, 1.0),
        orientations={
            "standing": "upright",
            "horizontal": "lr_switch",
            "vertical": "laid_vertically",
        },
    ),
}
