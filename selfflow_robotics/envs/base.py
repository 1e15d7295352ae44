"""The interface of all simulators: a Gymnasium environment for a robot at a table.

Both simulators (`envs.tabletop`, MuJoCo, embedded; `envs.simpler`, SAPIEN, the user's checkout)
implement this class, so rollouts, demonstrations and reports work with both. This module and the
simulators only import numpy and gymnasium: a worker process may run them in a Python environment
without torch.

Observation (`observation_space`):

| key         | type            | meaning                                                       |
|-------------|-----------------|---------------------------------------------------------------|
| image       | uint8 [H, W, 3] | RGB: the google robot's overhead camera, WidowX's third-view  |
|             |                 | camera (4:3, stretched to H x W)                              |
| instruction | str             | the task in words                                             |
| proprio     | float32 [8]     | RT-1's base_pose_tool_reached (xyz m, quaternion xyzw, in the |
|             |                 | base frame), then gripper_closed in [0, 1]                    |

Action (`action_space`, float32 [7]), at the robot's `control_hz`: translation in metres and
rotation vector in radians, both in the robot's base frame (the rotation turns about the tool
point), and the gripper: +1 close, -1 open, 0 as before. What the numbers do is the robot's:

* google robot (3 Hz): relative to the measured tool pose; the gripper moves by the action, up to
  once its stroke. All as in SIMPLER.
* WidowX (5 Hz): relative to the last target pose, which the arm follows with a lag; the gripper
  goes to where the action says, 1 closed, -1 open. SIMPLER's own gripper action has the other sign.

`info` of every call: `success` (bool, this step, the task's own rule), `elapsed_steps` (int), and
`state`, the privileged truth that only scripted experts and tests may read:

| key         | type        | meaning                                                    |
|-------------|-------------|------------------------------------------------------------|
| tool_pose   | float64 [7] | tool centre point in the world: xyz (m), quaternion wxyz   |
| object_pose | float64 [7] | the object that the task is about, same layout; absent if  |
|             |             | the scene has no objects                                   |
| other_poses | float64     | further objects of the scene, same layout; absent if there |
|             | [n, 7]      | are none                                                   |
| drawers     | float64 [3] | how far the drawers stand open (m), top, middle, bottom;   |
|             |             | absent if the scene has none                               |
| base_pose   | float64 [7] | robot base in the world, same layout                       |
| qpos        | float64     | joint angles, SIMPLER's order (google robot: arm 7,        |
|             | [11 or 8]   | fingers 2, head 2; WidowX: arm 6, fingers 2)               |
| gripper     | float       | closedness in [0, 1]                                       |

`reset` additionally puts `episode` into info: a JSON-able dict of what was drawn (the
task's `starts`), enough to repeat the episode.
"""

from abc import abstractmethod
from string import printable
from typing import Any

import gymnasium as gym
import numpy as np

from selfflow_robotics.envs.tasks.base import GOOGLE_ROBOT, Task
from selfflow_robotics.robot.actions import ACTION_DIM


class RobotEnv(gym.Env):
    """One simulated robot task. Subclasses implement the four abstract methods."""

    simulator: str  # "tabletop" or "simpler"
    task: Task
    image_size: tuple[int, int]  # (height, width)

    def __init__(self, task: Task, image_size: tuple[int, int]) -> None:
        self.task = task
        self.image_size = image_size
        height, width = image_size
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (ACTION_DIM,), np.float32)
        self.observation_space = gym.spaces.Dict(
            image=gym.spaces.Box(0, 255, (height, width, 3), np.uint8),
            instruction=gym.spaces.Text(256, charset=frozenset(printable)),
            proprio=gym.spaces.Box(-np.inf, np.inf, (8,), np.float32),
        )

    @abstractmethod
    def begin(self, seed: int, options: dict[str, Any]) -> dict[str, Any]:
        """Start an episode; returns `info`. Same seed and options, same episode.

        Options (all optional, JSON-able): those of the task (`Task.starts`) and of the simulator
        (SIMPLER: `robot_variant`). The rest is drawn from the seed.
        """

    @abstractmethod
    def advance(self, action: np.ndarray) -> dict[str, Any]:
        """One control step without rendering; returns `info`. Raises ValueError for NaN."""

    @abstractmethod
    def observe(self) -> dict[str, Any]:
        """Render and return the current observation."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Simulator, versions, renderer, physics fingerprint; JSON-able, stored with data sets."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        info = self.begin(seed, dict(options or {}))
        return self.observe(), info

    def step(self, action):
        info = self.advance(check_action(action))
        truncated = info["elapsed_steps"] >= self.task.max_episode_steps
        # SIMPLER's protocol runs all steps of an episode, so success does not end it.
        return self.observe(), float(info["success"]), False, truncated, info


def named_robot(task: Task) -> dict[str, str]:
    """The entry of provenance that names the robot. Without it, as in all data sets that were
    recorded before there were others, it is the google robot."""
    return {} if task.robot == GOOGLE_ROBOT else {"robot": task.robot.name}


def robot_state(
    *,
    tool_pose: np.ndarray,
    objects: np.ndarray,
    base_pose: np.ndarray,
    qpos: np.ndarray,
    closedness: float,
    drawers: np.ndarray | None = None,
) -> dict[str, Any]:
    """The `state` of info; `objects` [n, 7] in the order of the task's scene."""
    return {
        "tool_pose": tool_pose,
        **({"object_pose": objects[0]} if len(objects) else {}),
        "base_pose": base_pose,
        "qpos": qpos,
        "gripper": min(max(closedness, 0.0), 1.0),
        **({"other_poses": objects[1:]} if len(objects) > 1 else {}),
        **({} if drawers is None else {"drawers": drawers}),
    }


def check_action(action: np.ndarray) -> np.ndarray:
    """The action as float32 [7]. Raises ValueError for a wrong shape or non-finite values."""
    action = np.asarray(action, np.float32)
    if action.shape != (ACTION_DIM,):
        raise ValueError(f"an action has shape ({ACTION_DIM},), got {action.shape}")
    if not np.isfinite(action).all():
        raise ValueError(f"an action must be finite, got {action.tolist()}")
    return action
