"""`plan.machine=...`: print what a run will take, instead of starting it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from selfflow_robotics.cli.job import JobConfig
from selfflow_robotics.cli.plan_report import report
from selfflow_robotics.cli.workloads import Facts
from selfflow_robotics.errors import UserError
from selfflow_robotics.planning.estimate import CUDA_BYTES, HEAP, Estimate, Seconds
from selfflow_robotics.planning.machines import MACHINES, Machine, this_computer
from selfflow_robotics.planning.measure import measure_step
from selfflow_robotics.planning.trace import Workload
from selfflow_robotics.training.device import choose_precision, keep_freed_memory, set_threads


@dataclass(frozen=True)
class PlanConfig:
    """Plan a run instead of starting it."""

    machine: Literal["cpu", "a100", "h100", "h200"] | None = None
    gpus: tuple[int, ...] = (1, 8, 64)
    mfu: float = 0.4  # assumed; for machine=cpu it is measured

    def __post_init__(self) -> None:
        if not self.gpus or min(self.gpus) < 1:
            raise UserError(f"plan.gpus is a list of numbers from 1, got {list(self.gpus)}")
        if not 0 < self.mfu <= 1:
            raise UserError(f"plan.mfu must be in (0, 1], got {self.mfu}")


def print_plan(
    config: JobConfig,
    plan: PlanConfig,
    work: Workload,
    facts: Facts,
    data: Sequence[str | tuple[str, ...] | None],
) -> None:
    """Print the plan of a run; `data` are the folders that it reads, as far as they are given."""
    folders = [folder for one in data if one for folder in ([one] if isinstance(one, str) else one)]
    facts.data_bytes = sum(folder_bytes(Path(folder)) for folder in folders)
    if plan.machine is None or plan.machine == "cpu":
        process_bytes = resident_bytes()  # before it measures
        here = _on_this_computer(config, work)
        print(
            report(
                here.estimate,
                here.machine,
                (1,),
                here.mfu,
                config.train,
                facts,
                process_bytes,
                here.seconds,
            )
        )
        return
    precision = "bf16" if config.precision == "auto" else config.precision
    work = replace(work, precision=precision, accumulate=config.train.accumulate)
    estimate, machine = Estimate.of(work, gpu=True), MACHINES[plan.machine]
    mfu = {role.role: plan.mfu for role in work.roles}
    print(report(estimate, machine, plan.gpus, mfu, config.train, facts, CUDA_BYTES))


def plan_for_this_computer(
    config: JobConfig, work: Workload, process_bytes: float
) -> tuple[Seconds, float]:
    """The average step's time, and the peak of the memory in bytes, of a run in one process of this
    computer that takes `process_bytes` before it starts."""
    here = _on_this_computer(config, work)
    memory = here.estimate.memory(1, "replicate", process_bytes, HEAP)
    return here.seconds, memory.peak(config.train.activation_checkpoint)


class _OnThisComputer(NamedTuple):
    """What was counted and timed for a run in one process of this computer."""

    estimate: Estimate
    machine: Machine
    seconds: Seconds
    mfu: dict[str, float]  # of each role


def _on_this_computer(config: JobConfig, work: Workload) -> _OnThisComputer:
    train = config.train
    set_threads(config.threads)
    keep_freed_memory()  # as in training: a step takes half the time with it
    precision = choose_precision(config.precision, torch.device("cpu"))
    work = replace(work, precision=precision, accumulate=train.accumulate)
    machine = this_computer(precision)
    rate = machine.flops[precision]
    estimate = Estimate.of(work, gpu=False)
    batches, update, mfu = 0.0, 0.0, {}
    for role in work.roles:
        took = measure_step(work, role, train.activation_checkpoint)
        # The FLOPs of an autoencoder without weights, which cannot be timed.
        batch = took.batch + (role.batch * role.encoding_flops / rate if not role.encode else 0.0)
        batches += role.share * (batch + took.metrics / train.log_every)
        update += role.share * took.update
        mfu[role.role] = estimate.role_flops(role) / (batch * rate)
    seconds = Seconds(train.accumulate * batches, update, 0.0)
    return _OnThisComputer(estimate, machine, seconds, mfu)


def resident_bytes() -> float:
    """Main memory of this process now: Python and the libraries of a training command."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def folder_bytes(folder: Path) -> int:
    """Size of the files in a folder; 0 if it is missing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
