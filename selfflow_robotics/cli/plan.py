"""`plan.machine=...`: print what a run will take, instead of starting it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from selfflow_robotics.cli.job import JobConfig
from selfflow_robotics.cli.plan_report import report
from selfflow_robotics.cli.workloads import Facts
from selfflow_robotics.errors import UserError
from selfflow_robotics.planning.estimate import (
    CUDA_BYTES,
    HEAP,
    Estimate,
    Memory,
    Seconds,
    measured_mfu,
)
from selfflow_robotics.planning.machines import MACHINES, Machine, this_computer
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
        estimate, machine, mfu, process = _on_this_computer(config, work)
        print(report(estimate, machine, (1,), mfu, config.train, facts, process))
        return
    precision = "bf16" if config.precision == "auto" else config.precision
    work = replace(work, precision=precision, accumulate=config.train.accumulate)
    estimate, machine = Estimate.of(work, gpu=True), MACHINES[plan.machine]
    mfu = {role.role: plan.mfu for role in work.roles}
    print(report(estimate, machine, plan.gpus, mfu, config.train, facts, CUDA_BYTES))


def plan_for_this_computer(config: JobConfig, work: Workload) -> tuple[Seconds, Memory]:
    """The average step's time, and the memory, of a run in one process of this computer."""
    estimate, machine, mfu, process = _on_this_computer(config, work)
    seconds = estimate.seconds(machine, 1, "replicate", mfu)
    return seconds, estimate.memory(1, "replicate", process, HEAP)


def _on_this_computer(
    config: JobConfig, work: Workload
) -> tuple[Estimate, Machine, dict[str, float], float]:
    """What was counted, the processor's rates, the MFU of each role, and the process's bytes."""
    process = resident_bytes()
    set_threads(config.threads)
    keep_freed_memory()  # as in training: a step takes half the time with it
    precision = choose_precision(config.precision, torch.device("cpu"))
    work = replace(work, precision=precision, accumulate=config.train.accumulate)
    machine = this_computer(precision)
    mfu = {role.role: measured_mfu(work, role, machine) for role in work.roles}
    return Estimate.of(work, gpu=False), machine, mfu, process


def resident_bytes() -> float:
    """Main memory of this process now: Python and the libraries of a training command."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def folder_bytes(folder: Path) -> int:
    """Size of the files in a folder; 0 if it is missing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
