"""The episodes of an evaluation.

The protocols:

- `random`: random initial states, alternating between the task's variants.
- `held_out`: the same with other seeds, for results on which no recipe was tuned. Look at it last.
- `grid`: each cell of the task's official grid once, alternating between the robot's colours.
- `visual_matching`: SIMPLER's published protocol, each cell once with each of the robot's colours.
- `variant_aggregation`: SIMPLER's other published protocol, each cell once in each variation of the
  scene (`Task.aggregation`); each variation is evaluated as a task of its own.
- `paper`: as many cells of the grid as the Self-Flow paper plays (arXiv 2603.06507, appendix E: 15
  episodes of pick, 18 of drawers, 10 of move near and 7 of the apple, all twice).
- `quick`: ten cells of the grid.

Only SIMPLER has the robot's colours; the tabletop plays the grid without them.

Evaluations draw their episodes' seeds from [0, 100000), held-out ones from [200000, 300000);
demonstrations start at 1000000, so no policy is evaluated on a training episode.
"""

from dataclasses import dataclass
from typing import Literal

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.simpler.robots import colours_of
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import numpy_generator

Protocol = Literal[
    "auto",
    "random",
    "held_out",
    "grid",
    "visual_matching",
    "variant_aggregation",
    "paper",
    "quick",
]

NUM_SEEDS, FIRST_HELD_OUT_SEED = 100_000, 200_000
DRAWN: tuple[Protocol, ...] = ("random", "held_out")  # may draw an initial state repeatedly
NUM_RANDOM_EPISODES = 100
NUM_QUICK_EPISODES = 10
NUM_PAPER_EPISODES = {
    "pick_coke_can": 2 * 15,
    "open_drawer": 2 * 9,
    "close_drawer": 2 * 9,
    "move_near": 2 * 10,
    "place_apple_in_closed_top_drawer": 2 * 7,
}


def resolve_protocol(protocol: Protocol, simulator: str) -> Protocol:
    """Resolve `auto`: SIMPLER's grid in SIMPLER, random episodes elsewhere."""
    if protocol == "auto":
        return "grid" if simulator == "simpler" else "random"
    if protocol == "visual_matching" and simulator != "simpler":
        raise UserError(
            "protocol=visual_matching recolours SIMPLER's robot and needs sim=simpler; "
            "protocol=grid plays the same positions elsewhere"
        )
    if protocol == "variant_aggregation" and simulator != "simpler":
        raise UserError(
            "protocol=variant_aggregation plays in SIMPLER's other surroundings and needs "
            "sim=simpler"
        )
    return protocol


def tasks_of(task: Task, protocol: Protocol) -> list[Task]:
    """The tasks to evaluate for `task`: its variations for variant_aggregation, else itself.

    Raises UserError if the task has no variations, or is one and visual_matching is asked for.
    """
    if protocol == "visual_matching" and task.surroundings:
        raise UserError(
            f"protocol=visual_matching recolours the robot in the task's own surroundings, not in "
            f"those of {task.name}; use protocol=variant_aggregation"
        )
    if protocol != "variant_aggregation" or task.surroundings:
        return [task]
    found = list(task.aggregation())
    if not found:
        raise UserError(f"SIMPLER's variant aggregation has no episodes of {task.name}")
    return found


def evaluation_episodes(
    task: Task, simulator: str, protocol: Protocol, num_episodes: int | None, seed: int
) -> list[EpisodeSpec]:
    """The episodes of one evaluation, in the order they are played.

    `num_episodes` None is the protocol's number; a smaller number is spread over the grid. A longer
    list starts with the shorter one, so an evaluation can be extended.
    """
    protocol = resolve_protocol(protocol, simulator)
    if protocol in DRAWN:
        first = FIRST_HELD_OUT_SEED if protocol == "held_out" else 0
        return random_episodes(task, num_episodes or NUM_RANDOM_EPISODES, seed, first)
    if num_episodes is None:
        num_episodes = _number_of(task, protocol)
    if protocol == "variant_aggregation" and not task.surroundings:
        raise ValueError(f"{task.name} has the usual surroundings; see `tasks_of`")
    all_robots = protocol == "visual_matching"
    episodes = official_grid(task, seed, all_robots, recoloured=simulator == "simpler")
    if num_episodes is None:
        return episodes
    if num_episodes > len(episodes):
        raise UserError(
            f"num_episodes={num_episodes} is too large: protocol={protocol} has {len(episodes)} "
            "episodes"
        )
    order = numpy_generator("grid order", seed).permutation(len(episodes))
    return [episodes[index] for index in order[:num_episodes]]


def _number_of(task: Task, protocol: Protocol) -> int | None:
    """The number of episodes that a protocol takes from the grid; None: all."""
    if protocol == "quick":
        return min(NUM_QUICK_EPISODES, len(task.grid())) or None
    if protocol != "paper":
        return None
    if task.name not in NUM_PAPER_EPISODES:
        tasks = ", ".join(NUM_PAPER_EPISODES)
        raise UserError(f"protocol=paper has no episodes of {task.name}, only of {tasks}")
    return NUM_PAPER_EPISODES[task.name]


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of an evaluation split into `count` equal parts."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From "2/8". Raises UserError for anything else."""
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise UserError(
                f"shard must be NUMBER/COUNT with NUMBER from 1 to COUNT, such as 2/8, got {text!r}"
            )
        return cls(int(number), int(count))

    @property
    def folder(self) -> str:
        """The name of its folder inside the folder of the whole evaluation."""
        return f"shard_{self.number}_of_{self.count}"

    def of(self, episodes: list[EpisodeSpec]) -> list[EpisodeSpec]:
        """Every `count`-th episode, beginning with the `number`-th."""
        return episodes[self.number - 1 :: self.count]


def episode_seeds(seed: int, count: int) -> list[int]:
    """`count` different seeds in [0, NUM_SEEDS), determined by `seed`."""
    if not 0 < count <= NUM_SEEDS:
        raise UserError(f"num_episodes must be in [1, {NUM_SEEDS}], got {count}")
    return numpy_generator("episode seeds", seed).permutation(NUM_SEEDS)[:count].tolist()


def random_episodes(
    task: Task, num_episodes: int, seed: int, first_seed: int = 0
) -> list[EpisodeSpec]:
    """Seeded episodes with starts drawn by the simulator and alternating variants."""
    variants = task.variants
    return [
        EpisodeSpec(task.name, variants[index % len(variants)], first_seed + episode_seed)
        for index, episode_seed in enumerate(episode_seeds(seed, num_episodes))
    ]


def official_grid(
    task: Task, seed: int, all_robots: bool = False, recoloured: bool = True
) -> list[EpisodeSpec]:
    """The task's grid: each cell with each of SIMPLER's robot colours if `all_robots`.

    Otherwise the colours alternate, starting with one chosen by `seed`. If not `recoloured`, the
    options do not name a colour. Raises UserError if the task has no grid.
    """
    cells = task.grid()
    if not cells:
        raise UserError(f"the task {task.name} has no official grid; use protocol=random")
    robots = colours_of(task)
    if all_robots:
        starts = [(cell, robot) for robot in robots for cell in cells]
    else:
        starts = [(cell, robots[(i + seed) % len(robots)]) for i, cell in enumerate(cells)]
    episodes = []
    seeds = episode_seeds(seed, len(starts))
    for (cell, robot), episode_seed in zip(starts, seeds, strict=True):
        options = {name: value for name, value in cell.items() if name != "variant"}
        if recoloured:
            options["robot_variant"] = robot
        episodes.append(EpisodeSpec(task.name, cell["variant"], episode_seed, options))
    return episodes
