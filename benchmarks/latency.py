"""Latency of a policy: time from an observation to its actions, in every execution mode.

    python -m benchmarks.latency                                # size S on one CPU thread
    python -m benchmarks.latency --size XL --device cuda --precision bf16 --compile
    python -m benchmarks.latency --modes receding streaming --steps 2 5 10 --batch 1 8
    python -m benchmarks.latency --quick                        # smoke test, seconds

`python benchmarks/latency.py` does the same. The network has random weights, which do not change
its speed.

The first table compares decoding a chunk with the observation's keys and values kept (what the
policy does) with decoding it as one sequence at every step, after checking that both give the same
actions. The second one has percentiles over observations, for each execution (docs/execution.md),
solver, number of steps and batch. A stream needs no steps: it makes one evaluation for each
observation. Times are milliseconds of wall time; "CPU" is the process's own time, which other
programs disturb less. On a CPU the policy pads every batch to a multiple of 4.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from benchmarks.arguments import Parser, positive
from selfflow_robotics.batch import Slot
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.tables import markdown_table
from selfflow_robotics.flow.solvers import METHODS, Method, evaluation_times, solve_ode
from selfflow_robotics.flow.timesteps import sampling_times
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.inference.sample import sample
from selfflow_robotics.modalities.actions import Actions
from selfflow_robotics.modalities.base import ACTIONS, FRAMES
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import SIZES, RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.policies.chunk_sampler import Seen
from selfflow_robotics.policies.execution import MODES, Mode
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.robot.actions import ACTION_DIM
from selfflow_robotics.robot.normalize import NormStats
from selfflow_robotics.timesteps import Timesteps
from selfflow_robotics.training.device import choose_device

PATCH = 16
TOLERANCE = 1e-4  # of kept against recomputed keys and values, in float32
WARM_UP = 2
ALL_SIZES = {"tiny": SiTConfig(width=48, depth=2, heads=3), "default": SiTConfig(), **SIZES}


class Time(NamedTuple):
    """Milliseconds of each run."""

    wall: list[float]
    cpu: list[float]

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.wall, share))


def timed(runs: Sequence[Callable[[], object]], samples: int, device: torch.device) -> list[Time]:
    """Time the runs in turn, after some that compile and allocate."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    times = [Time([], []) for _ in runs]
    for sample_number in range(-WARM_UP, samples):
        for run, found in zip(runs, times, strict=True):
            wait()
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wait()
            if sample_number >= 0:
                found.wall.append((time.perf_counter() - wall) * 1e3)
                found.cpu.append((time.process_time() - cpu) * 1e3)
    return times


def random_bundle(size: SiTConfig, image_tokens: int, horizon: int, device: torch.device) -> Bundle:
    """A policy network that sees an image of `image_tokens` tokens, 16 in a column if it can."""
    rows = next(rows for rows in (16, 8, 4, 2, 1) if image_tokens % rows == 0)
    config = RobotConfig(
        size,
        image_size=(rows * PATCH, image_tokens // rows * PATCH),
        patch=PATCH,
        action_horizon=horizon,
        text_tokens=1,
    )
    codec = config.codec()
    torch.manual_seed(0)
    network = Network(config.network(codec)).eval()
    for name, parameter in network.named_parameters():
        if "adaLN" in name or "final_layer" in name:  # zero at first, which would hide mistakes
            torch.nn.init.normal_(parameter, std=0.02)
    stats = NormStats.compute(np.stack([-np.ones(ACTION_DIM), np.ones(ACTION_DIM)]))
    codecs = {FRAMES: codec, ACTIONS: Actions(stats)}
    network.to(device)
    return Bundle(network, codecs, ("policy",), {}, Path("random"), device, schedule="staircase")


class Decoding:
    """A chunk of one observation, decoded in two ways, without the image's stem."""

    def __init__(self, bundle: Bundle, num_steps: int) -> None:
        g = torch.Generator().manual_seed(1)
        network, frames = bundle.network, bundle.frames
        count = frames.tokens_per_step
        clean = torch.rand(1, count, frames.channels, generator=g) * 2 - 1
        noise = torch.randn(1, bundle.horizon, ACTION_DIM, generator=g)
        self.network, self.num_steps = network, num_steps
        self.clean = {"first_frame": bundle.slot("first_frame", clean)}
        self.noise = {"actions": bundle.slot("actions", noise)}

    def kept(self) -> torch.Tensor:
        """The library's way: the observation is encoded once."""
        return sample(self.network, self.noise, clean=self.clean, num_steps=self.num_steps)[
            "actions"
        ]

    @torch.no_grad()
    def recomputed(self) -> torch.Tensor:
        """One sequence of observation and actions at every step, with a mask that keeps the
        observation from seeing the actions."""
        network = self.network
        context = network.encode_context(self.clean, attention="joint")
        places: Slot = self.noise["actions"]

        def field(x, t: float):
            tau = Timesteps.constant(t, x["actions"])
            slots = {"actions": places.with_tokens(x["actions"])}
            return network(slots, tau, context, separate_attention=True)[0]

        start = {"actions": places.tokens}
        return solve_ode(field, start, sampling_times(self.num_steps))["actions"]


def compare_decoding(bundle: Bundle, num_steps: int, samples: int) -> str:
    """The first table. Raises UserError if the two ways disagree."""
    decoding = Decoding(bundle, num_steps)
    difference = (decoding.kept() - decoding.recomputed()).abs().max().item()
    if not difference < TOLERANCE:
        raise UserError(f"decoding with kept keys and values differs by {difference:.1e}")
    times = timed((decoding.recomputed, decoding.kept), samples, bundle.device)
    on_gpu = bundle.device.type == "cuda"
    medians = [statistics.median(one.wall if on_gpu else one.cpu) for one in times]
    rows = [("observation's keys and values", "p50", "CPU")]
    for name, one in zip(("one sequence at every step", "kept"), times, strict=True):
        rows.append((name, f"{one.percentile(50):.1f}", f"{statistics.median(one.cpu):.1f}"))
    gain = medians[0] / medians[1]
    tokens = bundle.frames.tokens_per_step
    return (
        f"{tokens} + {bundle.horizon} tokens, {num_steps} Euler steps, batch 1, float32: kept keys "
        f"and values are {gain:.1f} times as fast; largest difference {difference:.1e}\n\n"
        + markdown_table(rows)
    )


@dataclass(frozen=True)
class Case:
    """A row of the second table."""

    mode: Mode
    solver: Method
    steps: int | None  # None: streaming
    batch: int


def cases(arguments: argparse.Namespace) -> list[Case]:
    """All rows; a stream has neither solver nor steps."""
    found: list[Case] = []
    for mode in arguments.modes:
        how: list[tuple[Method, int | None]] = [
            (s, n) for s in arguments.solvers for n in arguments.steps
        ]
        if mode == "streaming":
            how = [("euler", None)]
        for solver, steps in how:
            found += [Case(mode, solver, steps, batch) for batch in arguments.batch]
    return found


def latency(bundle: Bundle, case: Case, arguments: argparse.Namespace) -> tuple[str, ...]:
    """The row of a case."""
    policy = FlowPolicy(
        bundle,
        execution=case.mode,
        replan_steps=max(1, bundle.horizon // 2),
        num_steps=case.steps,
        solver=case.solver,
        precision=arguments.precision,
        compiled=arguments.compile,
    )
    picture = np.zeros((*policy.image_size, 3), np.uint8)
    seen, slots = [Seen(picture, "")] * case.batch, list(range(case.batch))
    for slot in slots:
        policy.execution.begin(slot, seed=slot)
    [times] = timed([lambda: policy.execution.act(slots, seen)], arguments.samples, bundle.device)
    evaluations = 1
    if case.steps is not None:
        evaluations = len(evaluation_times(sampling_times(case.steps), case.solver))
        evaluations += {"heun": case.steps - 1, "multistep": 0}.get(case.solver, 0)
    median = times.percentile(50)
    return (
        case.mode,
        "" if case.steps is None else f"{case.solver} {case.steps}",
        str(case.batch),
        str(evaluations),
        *(f"{times.percentile(share):.1f}" for share in (50, 90, 99)),
        f"{median / policy.replan_steps:.1f}",
        f"{statistics.median(times.cpu):.1f}",
    )


HEAD = ("execution", "solver", "batch", "evaluations", "p50", "p90", "p99", "p50 / action", "CPU")


def parse(words: Sequence[str] | None, parser: Parser) -> argparse.Namespace:
    parser.add_argument("--size", choices=tuple(ALL_SIZES), default="S")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N, or auto")
    parser.add_argument("--threads", type=positive, default=1, help="on a CPU")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--solvers", nargs="+", choices=METHODS, default=["euler"])
    parser.add_argument("--steps", nargs="+", type=positive, default=[5], help="solver steps")
    parser.add_argument("--batch", nargs="+", type=positive, default=[1], help="episodes at once")
    parser.add_argument("--image-tokens", type=positive, default=512)
    parser.add_argument("--horizon", type=positive, default=16, help="actions of a chunk")
    parser.add_argument("--decoding-steps", type=positive, default=10, help="of the first table")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="compile the network's blocks")
    parser.add_argument("--samples", type=positive, default=30, help="observations of each row")
    parser.add_argument("--quick", action="store_true", help="smoke test with a tiny network")
    arguments = parser.parse_args(words)
    if arguments.quick:
        quick = {"size": "tiny", "image_tokens": 16, "horizon": 4, "samples": 3}
        arguments = argparse.Namespace(**{**vars(arguments), **quick})
    if arguments.horizon < 2:
        parser.error("--horizon must be at least 2: rtc needs two chunks that overlap")
    return arguments


def main(words: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    arguments = parse(words, parser)
    try:
        device = choose_device(arguments.device)
        torch.set_num_threads(arguments.threads)
        bundle = random_bundle(
            ALL_SIZES[arguments.size], arguments.image_tokens, arguments.horizon, device
        )
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        print(f"size {arguments.size}, {where}, torch {torch.__version__}\n", flush=True)
        print(compare_decoding(bundle, arguments.decoding_steps, arguments.samples), flush=True)
        rows = [latency(bundle, case, arguments) for case in cases(arguments)]
    except UserError as error:
        parser.error(str(error))
    print(f"\n{arguments.precision}{', compiled' if arguments.compile else ''}\n")
    print(markdown_table([HEAD, *rows]))


if __name__ == "__main__":
    main()
