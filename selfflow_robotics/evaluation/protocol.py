"""The episodes of an evaluation.

Three protocols:

- `random`: seeded draws with alternating variants.
- `grid`: SIMPLER's grid for the task, each cell once, cycling through the robot's recolourings.
- `visual_matching`: SIMPLER's published protocol, each cell once for each recolouring.

The grid of pick_coke_can is 3 orientations x 5 x 5 positions, and the published protocol repeats it
for 4 robots, 300 episodes (SimplerEnv, scripts/rt1_pick_coke_can_visual_matching.sh). Only
SIMPLER's robot has recolourings; other simulators play the grid without them.

Evaluations draw their episodes' seeds from [0, 100000); demonstrations start at 1000000, so no
policy is evaluated on a training episode.
"""

from itertools import product
from typing import Literal

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.simpler.tasks import ROBOT_VARIANTS
from selfflow_robotics.envs.tasks import Task
from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import numpy_generator

Protocol = Literal["auto", "random", "grid", "visual_matching"]

NUM_SEEDS = 100_000
NUM_RANDOM_EPISODES = 100
GRID_POINTS = 5  # cells along each axis


def resolve_protocol(protocol: Protocol, simulator: str) -> Protocol:
    """Resolve `auto`: SIMPLER's grid in SIMPLER, random episodes elsewhere."""
    if protocol == "auto":
        return "grid" if simulator == "simpler" else "random"
    if protocol == "visual_matching" and simulator != "simpler":
        raise UserError(
            "protocol=visual_matching recolours SIMPLER's robot and needs sim=simpler; "
            "protocol=grid plays the same positions elsewhere"
        )
    return protocol


def evaluation_episodes(
    task: Task, simulator: str, protocol: Protocol, num_episodes: int | None, seed: int
) -> list[EpisodeSpec]:
    """The episodes of one evaluation, in the order they are played.

    `num_episodes` None is the protocol's number; a smaller number is spread over the grid. A longer
    list starts with the shorter one, so an evaluation can be extended.
    """
    protocol = resolve_protocol(protocol, simulator)
    if protocol == "random":
        return random_episodes(task, num_episodes or NUM_RANDOM_EPISODES, seed)
    all_robots = protocol == "visual_matching"
    episodes = simpler_grid(task, seed, all_robots, recoloured=simulator == "simpler")
    if num_episodes is None:
        return episodes
    if num_episodes > len(episodes):
        raise UserError(
            f"num_episodes={num_episodes} is too large: protocol={protocol} has {len(episodes)} "
            "episodes"
        )
    order = numpy_generator("grid order", seed).permutation(len(episodes))
    return [episodes[index] for index in order[:num_episodes]]


def episode_seeds(seed: int, count: int) -> list[int]:
    """`count` different seeds in [0, NUM_SEEDS), determined by `seed`."""
    if not 0 < count <= NUM_SEEDS:
        raise UserError(f"num_episodes must be in [1, {NUM_SEEDS}], got {count}")
    return numpy_generator("episode seeds", seed).permutation(NUM_SEEDS)[:count].tolist()


def random_episodes(task: Task, num_episodes: int, seed: int) -> list[EpisodeSpec]:
    """Seeded episodes with starts drawn by the simulator and alternating variants."""
    variants = task.variants
    return [
        EpisodeSpec(task.name, variants[index % len(variants)], episode_seed)
        for index, episode_seed in enumerate(episode_seeds(seed, num_episodes))
    ]


def simpler_grid(
    task: Task, seed: int, all_robots: bool = False, recoloured: bool = True
) -> list[EpisodeSpec]:
    """SIMPLER's grid: variants x 5 x 5 positions, x 4 robots if `all_robots`.

    Otherwise the robots alternate, starting with one chosen by `seed`; without `recoloured` the
    options do not mention robots.
    """
    xs = np.linspace(*task.object_x_m, GRID_POINTS).round(6).tolist()
    ys = np.linspace(*task.object_y_m, GRID_POINTS).round(6).tolist()
    cells = list(product(task.variants, xs, ys))
    if all_robots:
        drawn = [(*cell, robot) for robot in ROBOT_VARIANTS for cell in cells]
    else:
        count = len(ROBOT_VARIANTS)
        drawn = [(*cell, ROBOT_VARIANTS[(i + seed) % count]) for i, cell in enumerate(cells)]
    seeds = episode_seeds(seed, len(drawn))
    return [
        EpisodeSpec(
            task.name,
            variant,
            episode_seed,
            {"object_xy": [x, y], **({"robot_variant": robot} if recoloured else {})},
        )
        for (variant, x, y, robot), episode_seed in zip(drawn, seeds, strict=True)
    ]
