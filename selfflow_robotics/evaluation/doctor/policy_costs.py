"""What a wrong convention costs a trained policy: its success rate with one convention flipped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.tasks.base import WIDOWX, Task
from selfflow_robotics.evaluation.doctor.action_statistics import PUBLISHED
from selfflow_robotics.evaluation.doctor.pictures import bgr, cropped, square
from selfflow_robotics.evaluation.protocol import random_episodes
from selfflow_robotics.evaluation.statistics import wilson_interval
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.robot.actions import ARM, GRIPPER
from selfflow_robotics.robot.normalize import ActionNormalizer, NormStats
from selfflow_robotics.robot.observation import resize_image
from selfflow_robotics.robot.rotations import rotvec_to_rpy
from selfflow_robotics.rollouts.engine import roll_out

Chunk = np.ndarray  # float32 [n, 7] environment actions
Observation = dict[str, Any]


@dataclass(frozen=True)
class Flip:
    """A convention that the policy's surroundings get wrong."""

    name: str
    act: Callable[[Chunk, Observation], Chunk] = lambda chunk, observation: chunk
    see: Callable[[np.ndarray], np.ndarray] = lambda image: image


@dataclass(frozen=True)
class Success:
    """Success of a policy with a flip."""

    flip: str
    successes: int
    episodes: int
    interval: tuple[float, float]  # 95 %, Wilson's


class FlippedPolicy:
    """A policy whose images or actions are taken in another convention."""

    privileged = False

    def __init__(self, policy: Policy, flip: Flip) -> None:
        self._policy, self._flip = policy, flip
        self.name = f"{policy.name}, {flip.name}"

    def begin(self, slot: int, episode: Any) -> None:
        self._policy.begin(slot, episode)

    def act(
        self,
        slots: list[int],
        observations: list[Observation],
        infos: list[dict[str, Any]] | None = None,
    ) -> list[Chunk]:
        seen = []
        for one in observations:
            image = np.ascontiguousarray(self._flip.see(one["image"]))
            seen.append({**one, "image": resize_image(image, one["image"].shape[:2])})
        chunks = self._policy.act(slots, seen, infos)
        return [
            self._flip.act(chunk, one).astype(np.float32)
            for chunk, one in zip(chunks, observations, strict=True)
        ]


def reverse_gripper(chunk: Chunk, observation: Observation) -> Chunk:
    """Close where the policy opens."""
    return np.concatenate([chunk[:, ARM], -chunk[:, GRIPPER:]], axis=1)


def as_rotation_vector(chunk: Chunk, observation: Observation) -> Chunk:
    """Take roll, pitch, yaw for a rotation vector."""
    turns = rotvec_to_rpy(chunk[:, 3:6])
    return np.concatenate([chunk[:, :3], turns, chunk[:, GRIPPER:]], axis=1)


def in_tool_frame(chunk: Chunk, observation: Observation) -> Chunk:
    """Take displacement and rotation for ones about the tool's axes."""
    tool = Rotation.from_quat(observation["proprio"][3:7])
    arm = [tool.apply(chunk[:, :3]), tool.apply(chunk[:, 3:6])]
    return np.concatenate([*arm, chunk[:, GRIPPER:]], axis=1)


def drop_every_second(chunk: Chunk, observation: Observation) -> Chunk:
    """Execute half of the actions."""
    return chunk[::2]


def hold_two_steps(chunk: Chunk, observation: Observation) -> Chunk:
    """Execute every action twice."""
    return np.repeat(chunk, 2, axis=0)[: len(chunk)]


def with_statistics(own: NormStats, other: NormStats) -> Callable[[Chunk, Observation], Chunk]:
    """Unnormalize the policy's actions with the statistics of another data set."""
    ours, theirs = ActionNormalizer(own), ActionNormalizer(other)

    def act(chunk: Chunk, observation: Observation) -> Chunk:
        vectors = np.concatenate([chunk[:, :3], rotvec_to_rpy(chunk[:, 3:6]), chunk[:, 6:]], axis=1)
        arm = theirs.unnormalize(ours.normalize(vectors.astype(np.float64)))[:, ARM]
        turns = Rotation.from_euler("xyz", arm[:, 3:]).as_rotvec()
        return np.concatenate([arm[:, :3], turns, chunk[:, GRIPPER:]], axis=1)

    return act


def flips(robot: str, stats: NormStats) -> tuple[Flip, ...]:
    """The flips for a policy of `robot` whose action statistics are `stats`; none is the first."""
    other = "fractal20220817_data" if robot == WIDOWX.name else "bridge_dataset"
    low, high = PUBLISHED[other]
    theirs = replace(stats, q01=np.append(low, 0.0), q99=np.append(high, 1.0))
    return (
        Flip("none"),
        Flip("gripper reversed", reverse_gripper),
        Flip("roll, pitch, yaw taken for a rotation vector", as_rotation_vector),
        Flip("actions in the tool's frame", in_tool_frame),
        Flip("every second action dropped", drop_every_second),
        Flip("every action executed twice", hold_two_steps),
        Flip(f"statistics of {other}", with_statistics(stats, theirs)),
        Flip("images BGR", see=bgr),
        Flip("images cropped to a square", see=square),
        Flip("images cropped to 90% of each side", see=cropped(0.9)),
    )


def measure_costs(
    client: SimulatorClient,
    task: Task,
    policy: Policy,
    stats: NormStats,
    replan_steps: int,
    episodes: int,
) -> list[Success]:
    """Play the same random episodes with each flip."""
    results = []
    for flip in tqdm(flips(task.robot.name, stats), desc="playing", unit="flip"):
        played = roll_out(
            [client],
            random_episodes(task, episodes, seed=0),
            FlippedPolicy(policy, flip),
            replan_steps=replan_steps,
        )
        successes = sum(result.success for result in played)
        interval = wilson_interval(successes, episodes)
        results.append(Success(flip.name, successes, episodes, interval))
    return results


def cost_rows(results: Sequence[Success]) -> list[list[str]]:
    """A table of the results, with a header."""
    rows = [["convention flipped", "success", "95 % interval", "n"]]
    for one in results:
        low, high = one.interval
        share = f"{one.successes / one.episodes:.0%}"
        rows.append([one.flip, share, f"{low:.0%} to {high:.0%}", str(one.episodes)])
    return rows
