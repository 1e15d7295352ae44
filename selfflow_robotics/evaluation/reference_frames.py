"""Compare this machine's pictures with those of the reference machine.

Drivers, GPUs, shaders and missing files change what a simulator renders, and with it a policy's
success rate, without any error. So every evaluation renders one known initial state per task and
compares the first camera image with `reference_frames.json`: the means of its 8 x 10 blocks on the
reference machine. Block means ignore single pixels along edges, but show another lighting, a
missing object or a missing background.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.envs.client import SimulatorClient, SimulatorError
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.protocol import official_grid, random_episodes
from selfflow_robotics.robot.observation import resize_image

FILE = Path(__file__).with_suffix(".json")
BLOCKS = (8, 10)  # rows and columns of a camera image
# Levels of 255 that count as another picture.
MEAN_LIMIT, BLOCK_LIMIT = 1.0, 8.0
# Objects with all files in every checkout; large ones may be missing or replaced.
_VARIANTS = {"move_near": "7up-apple-sponge", "move_near_v0": "7up-apple-sponge"}


@dataclass(frozen=True)
class FrameDifference:
    """How far the reference state's picture is from the reference machine's, in levels of 255."""

    mean: float  # over all blocks and colours
    block: float  # the largest difference of one block
    reference: str  # the reference machine's renderer

    @property
    def is_small(self) -> bool:
        """Whether both differences are within the limits."""
        return self.mean <= MEAN_LIMIT and self.block <= BLOCK_LIMIT

    def text(self) -> str:
        """One remark for a report."""
        measured = (
            f"the known first frame differs from that of {self.reference} by {self.mean:.1f} of "
            f"255 on average, {self.block:.0f} in the worst of {BLOCKS[0] * BLOCKS[1]} blocks"
        )
        if self.is_small:
            return f"Renderer: {measured}."
        return (
            f"This machine renders other pictures: {measured}. Success rates may differ from those "
            "of other machines."
        )


def compare_frame(client: SimulatorClient, task: Task) -> FrameDifference | None:
    """Render the reference state of `task` and compare it. None if there is no reference, or if
    the simulator fails; the episodes will show the cause then."""
    known = _references().get(client.spec.simulator, {})
    if task.name not in known.get("frames", {}):
        return None
    try:
        found = block_means(client, task)
    except (SimulatorError, UserError):
        client.restart()
        return None
    expected = np.array(known["frames"][task.name]).reshape(found.shape)
    difference = np.abs(found - expected)
    return FrameDifference(
        round(float(difference.mean()), 2), float(difference.max()), known["renderer"]
    )


def block_means(client: SimulatorClient, task: Task) -> np.ndarray:
    """The means of `BLOCKS` of the first camera image in the reference state, float [8, 10, 3] in
    [0, 255]. Raises SimulatorError or UserError if the simulator fails."""
    episode = reference_episode(task, client.spec.simulator)
    options = {"variant": episode.variant, **episode.options}
    reply = client.call("reset", task=task.name, seed=episode.seed, options=options)
    return resize_image(reply["observation"]["image"], BLOCKS).astype(float)


def reference_episode(task: Task, simulator: str) -> EpisodeSpec:
    """The known initial state: the first of the task's grid, or a drawn one if it has none."""
    if not task.grid():
        return random_episodes(task, 1, seed=0)[0]
    grid = official_grid(task, seed=0, recoloured=simulator == "simpler")
    variant = _VARIANTS.get(task.name, grid[0].variant)
    return next(episode for episode in grid if episode.variant == variant)


@cache
def _references() -> dict[str, Any]:
    return json.loads(FILE.read_text())
