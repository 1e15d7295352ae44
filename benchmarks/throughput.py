"""Episodes per minute against the number of simulators, without a network's time.

    python -m benchmarks.throughput                                   # the tabletop
    python -m benchmarks.throughput --sim simpler --workers 1 2       # your SIMPLER installation
    python -m benchmarks.throughput --task open_drawer --episodes 2

Each worker is a process of its own, as in eval/simpler.py. Random actions run for whole episodes;
like a network that plans six actions, they look at a picture every sixth step (`six`), or never
(`none`). The first episode of each worker, which starts the simulator, is not counted. Every row is
the median over --repeats runs, which take turns. Prints a Markdown table.
"""

import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from benchmarks.arguments import Parser, positive
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.simpler.preflight import check_simpler
from selfflow_robotics.envs.spec import SimplerInstall, SimulatorSpec, simulator_spec
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.protocol import random_episodes
from selfflow_robotics.evaluation.tables import markdown_table
from selfflow_robotics.policies.random import RandomPolicy
from selfflow_robotics.rollouts.engine import roll_out

REPLAN_STEPS = 6


class Blind(RandomPolicy):
    """Random actions without pictures."""

    looks = False


def episodes_per_minute(
    clients: Sequence[SimulatorClient], task: Task, per_worker: int, looks: bool, seed: int
) -> float:
    """The rate over `per_worker` episodes of each client."""
    policy = (RandomPolicy if looks else Blind)(seed, horizon=REPLAN_STEPS)
    episodes = random_episodes(task, per_worker * len(clients), seed)
    began = time.perf_counter()
    for result in roll_out(clients, episodes, policy, replan_steps=REPLAN_STEPS):
        if result.error:
            raise UserError(f"the simulator failed: {' '.join(result.error.split())}")
    return 60 * len(episodes) / (time.perf_counter() - began)


def measure(
    spec: SimulatorSpec, task: Task, workers: Sequence[int], per_worker: int, repeats: int
) -> list[list[str]]:
    """The table: a row per number of workers."""
    rates: dict[tuple[int, bool], list[float]] = {}
    with ExitStack() as stack:
        clients = [stack.enter_context(SimulatorClient(spec)) for _ in range(max(workers))]
        episodes_per_minute(clients, task, 1, True, seed=0)
        for repeat in range(repeats):
            for count in workers:
                for looks in (True, False):
                    rate = episodes_per_minute(clients[:count], task, per_worker, looks, repeat)
                    rates.setdefault((count, looks), []).append(rate)
    rows = [["workers", "episodes/min, pictures every sixth step", "episodes/min, no pictures"]]
    for count in workers:
        found = [f"{median(rates[count, looks]):.3g}" for looks in (True, False)]
        rows.append([str(count), *found])
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = Parser(__doc__)
    parser.add_argument("--sim", choices=("tabletop", "simpler"), default="tabletop")
    parser.add_argument("--task", default=DEFAULT_TASK, help="the task to play")
    parser.add_argument("--workers", type=positive, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--episodes", type=positive, default=6, help="per worker and run")
    parser.add_argument("--repeats", type=positive, default=3, help="runs per row")
    options = parser.parse_args(arguments)
    try:
        task = get_task(options.task)
        spec = simulator_spec(options.sim, task.name, SimplerInstall())
        if options.sim == "simpler":
            check_simpler(spec.path, spec.python, task)
        rows = measure(spec, task, options.workers, options.episodes, options.repeats)
    except UserError as error:
        parser.error(str(error))
    height, width = spec.image_size
    print(
        f"{task.name} on {options.sim}, {task.max_episode_steps} steps, {height} x {width} px, "
        f"{len(os.sched_getaffinity(0))} cores ({platform.machine()})\n"
    )
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
