"""SIMPLER's settings for each robot."""

from dataclasses import dataclass

from selfflow_robotics.envs.tasks.base import Task


@dataclass(frozen=True)
class SimplerRobot:
    """A robot in SIMPLER's terms."""

    uid: str
    control_mode: str
    sim_hz: int
    camera: str  # what the policy sees
    variants: tuple[str, ...]  # colours (URDF versions); "base" is the uncoloured one, SIMPLER's ""
    # SIMPLER's gripper action is relative (False): +1 close, -1 open, 0 no change; or a position
    # (True): +1 open, -1 closed. This project's is the same for every robot (`envs.base`).
    gripper_is_state: bool = False


ROBOTS = {
    "google_robot": SimplerRobot(
        uid="google_robot_static",
        # Arm target = measured tool pose + action; finger target = last target + action.
        control_mode=(
            "arm_pd_ee_delta_pose_align_interpolate_by_planner_"
            "gripper_pd_joint_target_delta_pos_interpolate_by_planner"
        ),
        sim_hz=513,
        camera="overhead_camera",
        variants=(
            "base",
            "recolor_tabletop_visual_matching_1",
            "recolor_tabletop_visual_matching_2",
            "recolor_cabinet_visual_matching_1",
        ),
    ),
    "widowx": SimplerRobot(
        uid="widowx",
        # Arm target = last target + action; the finger target is absolute.
        control_mode="arm_pd_ee_target_delta_pose_align2_gripper_pd_joint_pos",
        sim_hz=500,
        camera="3rd_view_camera",
        variants=("base",),
        gripper_is_state=True,
    ),
}


def colours_of(task: Task) -> tuple[str, ...]:
    """The robot's colours in the episodes of `task`: in other surroundings it has its own ones."""
    variants = ROBOTS[task.robot.name].variants
    return variants[:1] if task.surroundings else variants
