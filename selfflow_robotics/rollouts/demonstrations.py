"""Record demonstrations of scripted experts as a data set with RT-1's or Bridge's features.

The k-th episode of a data set depends only on the configuration and k, not on the number of
processes, interruptions or repetitions. Seeds are above all evaluation seeds.
"""

import os
import re
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from selfflow_robotics.data.rlds.metadata import read_metadata
from selfflow_robotics.data.rlds.writer import RldsWriter
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.simpler.preflight import check_simpler
from selfflow_robotics.envs.spec import TIMEOUT_S, SimplerInstall, SimulatorSpec, simulator_spec
from selfflow_robotics.envs.tasks.base import GOOGLE_ROBOT, WIDOWX, Range, Robot, Task
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, get_tasks, list_tasks, own_names
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.policies.demonstrator import Demonstrator, Player, Track
from selfflow_robotics.rng import numpy_generator
from selfflow_robotics.rollouts.engine import EpisodeResult, roll_out
from selfflow_robotics.rollouts.recorded_steps import recorded_steps

FIRST_SEED = 1_000_000  # evaluations use lower seeds (`evaluation.protocol`)
MAX_SEED = 2**31
TRIES = 20  # failed attempts at an episode before giving up
# Policies fail near the border of the demonstrated positions, so these extend beyond the task's.
MARGIN_M = 0.04
PLAY_STEPS = 40
# Finished episodes per simulator that may wait in memory for an earlier one; a crash loses them.
AHEAD = 4
MIN_STEPS = 2  # an unrecorded prefix may succeed by chance and leave nothing to record
MOST_PX = 4096  # largest side of an image
VERSION = "0.1.0"
# Whose features a robot's data sets have: RT-1's, or BridgeData V2's.
LAYOUTS: dict[Robot, Literal["fractal", "bridge"]] = {GOOGLE_ROBOT: "fractal", WIDOWX: "bridge"}


@dataclass(frozen=True)
class CollectConfig:
    """Settings of a recording.

    `mode` "demonstrations": expert episodes that succeed, a share `recovery` of them disturbed (see
    `policies.demonstrator`). "play": aimless motion, for pretraining on images. `seed` is the first
    seed; the data set uses `TRIES` per episode. `image_size` (height, width) None: 64 x 80 on the
    tabletop, 256 x 320 (RT-1's) in SIMPLER. `name` None: from simulator, task, mode and number.
    `processes` None: one per core. `timeout_s`: time limit for an answer of a simulator.
    """

    sim: str = "tabletop"  # as `SimulatorSpec.simulator`
    task: str = DEFAULT_TASK  # as `envs.tasks.catalog.list_tasks`; several alternate
    mode: Literal["demonstrations", "play"] = "demonstrations"
    num_episodes: int = 300
    seed: int = FIRST_SEED
    recovery: float = 0.5
    image_size: tuple[int, int] | None = None
    renderer: str = "ray"
    simpler: SimplerInstall = field(default_factory=SimplerInstall)
    root: str = "datasets"
    name: str | None = None
    processes: int | None = None
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", own_names(self.task))
        robots = sorted({task.robot.name for task in get_tasks(self.task)})
        if len(robots) > 1:
            raise UserError(
                f"a data set is of one robot, but {self.task} has tasks of {' and '.join(robots)}"
            )
        if self.renderer != "ray" and self.sim != "tabletop":
            raise UserError(
                f"renderer={self.renderer} is for the tabletop, not {self.sim}; remove it"
            )
        check_least(self, 1, "num_episodes")
        if not 0 <= self.recovery <= 1:
            raise UserError(f"recovery must be between 0 and 1, got {self.recovery}")
        if not FIRST_SEED <= self.seed < MAX_SEED - TRIES * self.num_episodes:
            raise UserError(f"seed must be between {FIRST_SEED} and 2 ** 31, got {self.seed}")
        if self.image_size and not all(1 <= side <= MOST_PX for side in self.image_size):
            raise UserError(
                f"image_size must be (height, width), each 1 to {MOST_PX} px, got {self.image_size}"
            )
        if self.processes is not None and not 1 <= self.processes <= 1024:
            raise UserError(f"processes must be from 1 to 1024, got {self.processes}")

    @property
    def dataset_name(self) -> str:
        """`name`, or the default name from the settings."""
        if self.name:
            return self.name
        parts = [self.sim.rpartition(":")[2].lower(), re.sub("[,@]", "_", self.task)]
        if self.mode == "play":
            parts.append("play")
        elif self.recovery:
            parts.append(f"recovery{round(100 * self.recovery)}")
        if self.renderer != "ray":
            parts.append(self.renderer)
        return "_".join([*parts, str(self.num_episodes)])

    @property
    def directory(self) -> Path:
        """The data set's folder."""
        return Path(self.root) / self.dataset_name / VERSION

    @property
    def recording(self) -> dict[str, Any]:
        """Settings that determine the episodes, besides the simulator; stored with the data set."""
        plays = self.mode == "play"
        hold_steps = sorted({task.hold_steps for task in get_tasks(self.task)})
        return {
            "mode": self.mode,
            "seed": self.seed,
            "recovery": None if plays else self.recovery,
            "margin_m": MARGIN_M,
            "hold_steps": None if plays else hold_steps if len(hold_steps) > 1 else hold_steps[0],
        }

    @property
    def spec(self) -> SimulatorSpec:
        """The simulator spec, with the first of the tasks."""
        first = get_tasks(self.task)[0].name
        return simulator_spec(
            self.sim, first, self.simpler, self.image_size, self.renderer, self.timeout_s
        )


def _check_same(config: CollectConfig) -> None:
    """Compare settings without starting a simulator (`collect` also compares its version and
    physics)."""
    found = read_metadata(config.directory)
    provenance = found["provenance"]
    wanted = config.recording | {
        "image_size": list(config.spec.image_size),
        "num_episodes": config.num_episodes,
    }
    recording = provenance.get("recording")
    was = (recording if isinstance(recording, dict) else {}) | {
        "image_size": found.get("image_size"),
        "num_episodes": len(found["episodes"]),
    }
    if config.sim in ("tabletop", "simpler"):
        wanted |= {"simulator": config.sim, "task": config.task}
        was |= {key: provenance.get(key) for key in ("simulator", "task")}
    if config.sim == "tabletop":
        wanted["renderer"], was["renderer"] = config.renderer, provenance.get("renderer")
    for key, value in wanted.items():
        if was.get(key) != value:
            raise UserError(
                f"{config.directory} was recorded with {key}={was.get(key)}, not {value}: choose "
                "another name, or remove it"
            )


def ensure_demonstrations(config: CollectConfig) -> Path:
    """The data set of `config`, recorded if it does not exist. Prints which one is used.

    Raises SimplerMissing, and UserError if a data set with this name has different settings.
    """
    if (config.directory / "dataset_info.json").exists():
        _check_same(config)
        print(f"demonstrations: using {config.directory}")
        return config.directory
    print(f"demonstrations: recording {config.num_episodes} episodes into {config.directory}")
    return collect(config)


def collect(config: CollectConfig) -> Path:
    """Record the data set of `config` and return its folder. Resumes an interrupted recording; a
    finished data set is not changed.

    Each finished episode is on disk. Raises UserError if an episode fails repeatedly.
    """
    count = config.processes or len(os.sched_getaffinity(0))
    left_out: dict[str, list[str]] = {}
    if config.sim == "simpler":
        spec = config.spec
        for task in get_tasks(config.task):
            missing = check_simpler(spec.path, spec.python, task, spec.allow_invisible)
            if missing:
                left_out[task.name] = sorted(missing)
                for variant, why in missing.items():
                    tqdm.write(f"{task.name}: {variant} is not recorded: {why}")
    with ExitStack() as stack:
        clients = [
            stack.enter_context(SimulatorClient(config.spec))
            for _ in range(min(count, config.num_episodes))
        ]
        recording = {**config.recording, **({"left_out": left_out} if left_out else {})}
        provenance = {**_provenance(config, clients[0]), "recording": recording}
        writer = stack.enter_context(
            RldsWriter(
                config.root,
                config.dataset_name,
                VERSION,
                config.spec.image_size,
                provenance,
                layout=LAYOUTS[get_tasks(config.task)[0].robot],
            )
        )
        if not writer.finished:
            failures = _record(config, clients, writer, left_out)
            lost = ", ".join(f"{count} {what}" for what, count in sorted(failures.items()))
            tqdm.write(f"{writer.episodes_done} episodes; attempts without success: {lost or 0}")
        return writer.finish()


def _provenance(config: CollectConfig, client: SimulatorClient) -> dict[str, Any]:
    """The simulator's provenance; with several tasks, the first one's and a list of all."""
    tasks = get_tasks(config.task)
    if len(tasks) == 1:
        return client.provenance()
    own = [client.provenance(task.name) for task in tasks]
    return {**own[0], "task": config.task, "tasks": own}


def _record(
    config: CollectConfig,
    clients: list[SimulatorClient],
    writer: RldsWriter,
    left_out: dict[str, list[str]],
) -> Counter[str]:
    """Fill the writer, in order; returns the failed attempts by variant."""
    plays = config.mode == "play"
    policy = Player() if plays else Demonstrator(config.recovery)
    plan = _Plan(config, writer, AHEAD * len(clients), writer.episodes_done, left_out)
    finished: dict[int, tuple[list[dict[str, Any]], dict[str, Any]]] = {}
    failures: Counter[str] = Counter()
    results = roll_out(
        clients,
        plan,
        policy,
        max_steps=PLAY_STEPS if plays else None,
        stop_on_success=not plays,
        record="steps",
    )
    with tqdm(
        total=config.num_episodes, initial=writer.episodes_done, unit="episode", desc="recording"
    ) as bar:
        for result in results:
            number, track = plan.number_of(result.spec), policy.tracks.pop(result.spec.seed)
            recorded = sum(label is not None for label in track.labels)
            if result.error:  # even in new simulators; another seed would change the data set
                raise UserError(
                    f"the {config.spec.simulator} simulator fails at episode {number} "
                    f"({result.spec.variant}, seed {result.spec.seed}): "
                    f"{' '.join(result.error.split())}; {writer.episodes_done} finished episodes "
                    "are kept; repeat the command to resume"
                )
            if recorded < MIN_STEPS or not (plays or result.success):
                failures[f"{result.spec.task} {result.spec.variant}"] += 1
                bar.set_postfix(failed=failures.total())
                plan.again(result)
                continue
            assert result.trajectory is not None
            steps = recorded_steps(
                result.trajectory.observations,
                result.trajectory.actions,
                result.success,
                track.labels,
            )
            finished[number] = (steps, _metadata(result, track))
            while writer.episodes_done in finished:
                writer.write_episode(*finished.pop(writer.episodes_done))
                bar.update()
    return failures


@dataclass
class _Plan(Iterator[EpisodeSpec]):
    """The remaining attempts; after a failure, the next attempt at that episode comes first.

    It may be exhausted and continue later, so it is an iterator, not a generator.
    """

    config: CollectConfig
    writer: RldsWriter
    ahead: int  # limit for episodes started beyond the first unwritten one
    first: int
    left_out: dict[str, list[str]]  # task -> variants that the simulator cannot play
    _again: deque[EpisodeSpec] = field(default_factory=deque)

    def __next__(self) -> EpisodeSpec:
        if self._again:
            return self._again.popleft()
        if self.first >= min(self.config.num_episodes, self.writer.episodes_done + self.ahead):
            raise StopIteration
        self.first += 1
        return self._attempt(self.first - 1, 0)

    def number_of(self, spec: EpisodeSpec) -> int:
        """The episode number of an attempt."""
        return (spec.seed - self.config.seed) // TRIES

    def again(self, result: EpisodeResult) -> None:
        """Plan another attempt. Raises UserError after too many."""
        attempt = (result.spec.seed - self.config.seed) % TRIES + 1
        if attempt == TRIES:
            raise UserError(
                f"episode {self.number_of(result.spec)} ({result.spec.task}, "
                f"{result.spec.variant}) failed {TRIES} times: the expert cannot solve it"
            )
        self._again.append(self._attempt(self.number_of(result.spec), attempt))

    def _attempt(self, number: int, attempt: int) -> EpisodeSpec:
        seed = self.config.seed + number * TRIES + attempt
        tasks = list_tasks(self.config.task)
        rounds, place = divmod(number, len(tasks))
        task = tasks[place]
        earlier = rounds * tasks.count(task) + tasks[:place].count(task)  # episodes of this task
        left_out = self.left_out.get(task.name, ())
        variants = [variant for variant in task.variants if variant not in left_out]
        variant = variants[earlier % len(variants)]
        return EpisodeSpec(task.name, variant, seed, _places(task, seed))


def _places(task: Task, seed: int) -> dict[str, Any]:
    """The episode's positions, which may lie up to MARGIN_M outside the task's."""
    rng = numpy_generator("object place", seed)
    return {
        name: option.draw(rng, MARGIN_M)
        for name, option in task.starts.items()
        if isinstance(option, Range)
    }


def _metadata(result: EpisodeResult, track: Track) -> dict[str, Any]:
    return {
        "success": result.success,
        "task": result.spec.task,
        "seed": result.spec.seed,
        "variant": result.spec.variant,
        "disturbed": track.disturbed,
        "unrecorded_steps": sum(label is None for label in track.labels),
        "drawn": result.drawn,
    }
