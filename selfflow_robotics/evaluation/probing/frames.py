"""Frames of aimless play with the simulator's state, as ground truth for probes.

The episodes' seeds are in [500000, 600000). Evaluations use lower seeds (`evaluation.protocol`) and
recordings higher ones (`rollouts.demonstrations`), so no network was trained on them. Object
positions change little within an episode, so many short episodes are more informative than a few
long ones, and frames must be split by episode.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.policies.demonstrator import Player
from selfflow_robotics.rng import numpy_generator
from selfflow_robotics.robot.observation import resize_image
from selfflow_robotics.robot.rotations import from_wxyz
from selfflow_robotics.rollouts.engine import roll_out

FIRST_SEED, NUM_SEEDS = 500_000, 100_000
EPISODE_STEPS = 40
FRAME_STRIDE = 4  # control steps between kept frames
FALLEN_M = 0.05  # an object this far below its start is on the floor and out of view
LONG_AXIS = np.array([0.0, 1.0, 0.0])  # of an object in its frame (`envs.tasks.objects`)


@dataclass(frozen=True)
class Target:
    """A quantity to predict from an image."""

    unit: str
    meaning: str
    value: Callable[[dict], np.ndarray]  # [k] from `info["state"]` (`envs.base`)
    error: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (predicted, true) [n, k] -> [n] in unit


def distance(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Euclidean distance of [n, k] and [n, k]."""
    return np.linalg.norm(predicted - true, axis=-1)


def axis_angle(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Degrees in [0, 90] between the axes of two symmetric tensors [n, 9], see `axis_tensor`."""

    def axis(tensor: np.ndarray) -> np.ndarray:
        matrix = tensor.reshape(-1, 3, 3)
        return np.linalg.eigh((matrix + matrix.swapaxes(1, 2)) / 2).eigenvectors[..., -1]

    cosine = np.abs(np.sum(axis(predicted) * axis(true), axis=-1))
    return np.degrees(np.arccos(np.clip(cosine, 0, 1)))


def axis_tensor(direction: np.ndarray) -> np.ndarray:
    """a a^T of unit vectors [..., 3], flattened to [..., 9].

    A can looks the same from both ends; a and -a give the same tensor, so regressing it is well
    defined. The axis is the eigenvector of the largest eigenvalue.
    """
    return (direction[..., :, None] * direction[..., None, :]).reshape(*direction.shape[:-1], 9)


def _axis_of_object(state: dict) -> np.ndarray:
    return axis_tensor(from_wxyz(np.asarray(state["object_pose"])[3:]).apply(LONG_AXIS))


# Tasks name theirs (`Task.targets`).
TARGETS = {
    "drawers": Target(
        "cm",
        "how far the three drawers stand open",
        lambda state: 100 * np.asarray(state["drawers"]),
        distance,
    ),
    "object_position": Target(
        "cm",
        "object, x and y in the world's table plane",
        lambda state: 100 * np.asarray(state["object_pose"])[:2],
        distance,
    ),
    "object_axis": Target(
        "deg", "direction of the object's long axis in the world", _axis_of_object, axis_angle
    ),
    "gripper": Target(
        "closedness",
        "gripper, 0 open to 1 closed",
        lambda state: np.array([float(state["gripper"])]),
        distance,
    ),
    "tool_position": Target(
        "cm",
        "tool point, x, y and z in the world",
        lambda state: 100 * np.asarray(state["tool_pose"])[:3],
        distance,
    ),
}


@dataclass(frozen=True)
class Frames:
    """Images of E episodes with their targets."""

    images: np.ndarray  # uint8 [n, h, w, 3]
    instructions: list[str]  # n
    episode: np.ndarray  # int64 [n] in [0, E)
    truth: dict[str, np.ndarray]  # float64 [n, k] for each of the task's targets


def probe_episodes(task: Task, num_episodes: int, seed: int) -> list[EpisodeSpec]:
    """The episodes to play, with alternating variants; a longer list starts with the
    shorter one."""
    if not 0 < num_episodes <= NUM_SEEDS:
        raise UserError(f"num_episodes must be in [1, {NUM_SEEDS}], got {num_episodes}")
    seeds = (
        FIRST_SEED + numpy_generator("probe episodes", seed).permutation(NUM_SEEDS)[:num_episodes]
    )
    variants = task.variants
    return [
        EpisodeSpec(task.name, variants[i % len(variants)], number)
        for i, number in enumerate(seeds.tolist())
    ]


def play_frames(
    clients: Sequence[SimulatorClient],
    episodes: Sequence[EpisodeSpec],
    size: tuple[int, int],
    on_episode: Callable[[], object] = lambda: None,
) -> Frames:
    """Play `episodes` of one task aimlessly and keep every fourth frame at `size` (height, width).

    Frames whose object has fallen off the table are left out. `on_episode` is called after each
    episode. Raises UserError if an episode cannot be played.
    """
    targets = get_task(episodes[0].task).targets
    played = {}
    for result in roll_out(clients, episodes, Player(), max_steps=EPISODE_STEPS, record="steps"):
        if result.error or result.trajectory is None:
            raise UserError(f"the simulator failed: {' '.join((result.error or '').split())}")
        seen, infos = result.trajectory.observations, result.trajectory.infos
        height = _height(infos[0]["state"])
        played[result.index] = [
            (
                resize_image(seen[step]["image"], size),
                seen[step]["instruction"],
                contents(infos[step]["state"], targets),
            )
            for step in range(0, len(seen), FRAME_STRIDE)
            if _height(infos[step]["state"]) > height - FALLEN_M
        ]
        on_episode()
    rows = [(index, *frame) for index in sorted(played) for frame in played[index]]
    episode, images, instructions, truth = zip(*rows, strict=True)
    return Frames(
        np.stack(images),
        list(instructions),
        np.array(episode),
        {name: np.stack([content[name] for content in truth]) for name in targets},
    )


def _height(state: dict) -> float:
    """Of the object (m); 0 in a scene without objects."""
    return float(state["object_pose"][2]) if "object_pose" in state else 0.0


def contents(state: dict, targets: Sequence[str]) -> dict[str, np.ndarray]:
    """The values [k] of `targets` from `info["state"]` (`envs.base`)."""
    return {name: TARGETS[name].value(state) for name in targets}
