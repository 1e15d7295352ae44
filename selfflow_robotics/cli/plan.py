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
from selfflow_robotics.planning.estimate import CUDA_BYTES, Estimate, measured_mfu
from selfflow_robotics.planning.machines import MACHINES, this_computer
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
    process = resident_bytes()
    set_threads(config.threads)
    keep_freed_memory()  # as in training: a step takes half the time with it
    precision = config.precision
    if precision == "auto":
        on_cpu = torch.device("cpu")
        precision = choose_precision("auto", on_cpu) if plan.machine == "cpu" else "bf16"
    work = replace(work, precision=precision, accumulate=config.train.accumulate)
    estimate = Estimate.of(work, gpu=plan.machine != "cpu")
    if plan.machine is None or plan.machine == "cpu":
        machine, counts = this_computer(precision), (1,)
        mfu = {role.role: measured_mfu(work, role, machine) for role in work.roles}
    else:
        machine, counts, process = MACHINES[plan.machine], plan.gpus, CUDA_BYTES
        mfu = {role.role: plan.mfu for role in work.roles}
    print(report(estimate, machine, counts, mfu, config.train, facts, process))


def resident_bytes() -> float:
    """Main memory of this process now: Python and the libraries of a training command."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def folder_bytes(folder: Path) -> int:
    """Size of the files in a folder; 0 if it is missing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
