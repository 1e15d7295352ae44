"""The processes that train together: torchrun starts them, each has its rows of every batch.

    torchrun --nproc-per-node=8 pretrain/images.py --data ...

The batch size is the total over all processes. A sample has the same noise with any number of them
(`rng.draw`), so that their number changes a run by rounding only. `training.parallel` keeps the
weights of all processes equal.
"""

import atexit
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from selfflow_robotics.errors import UserError
from selfflow_robotics.training.device import (
    choose_device,
    choose_precision,
    keep_freed_memory,
    set_threads,
)

Item = TypeVar("Item")

# The first process may create data sets while the others wait.
TIMEOUT = timedelta(hours=4)


@dataclass(frozen=True)
class Ranks:
    """This process's rank and the number of processes; a single one by default."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes, prints and downloads."""
        return self.rank == 0

    def share(self, batch: Sequence[Item]) -> Sequence[Item]:
        """This process's consecutive rows of a global batch, as in `rng.draw`. Raises UserError if
        it does not divide."""
        if len(batch) % self.size:
            raise UserError(
                f"a batch of {len(batch)} is not divisible by {self.size} processes; choose "
                "another batch size"
            )
        rows = len(batch) // self.size
        return batch[self.rank * rows : (self.rank + 1) * rows]

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes, detached."""
        value = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over the processes, detached."""
        return value.detach() if self.size == 1 else self.sum(value) / self.size

    def any(self, flags: Sequence[bool], device: torch.device) -> list[bool]:
        """Whether each flag is set in any process."""
        if self.size == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.float32, device=device)
        return [count > 0 for count in self.sum(raised).tolist()]

    def wait(self) -> None:
        """Wait for all processes: one that exits early closes its connections."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Run the body in the first process, then in the others, which reuse its results."""
        if not self.is_first:
            dist.barrier()
        yield
        if self.is_first and self.size > 1:
            dist.barrier()


ALONE = Ranks()


def _of_this_start(store: Store) -> Store:
    """torchrun keeps one store for all restarts, so restarted processes would find the addresses of
    dead ones. Its number of restarts tells them apart, but not if there are several nodes, which
    count their own: there, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1."""
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        return store
    return PrefixStore(f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def start_training(threads: int, device: str, precision: str) -> tuple[Ranks, torch.device, str]:
    """Start a training command: this process's ranks, device, and precision (with
    "auto" resolved)."""
    set_threads(threads)
    keep_freed_memory()
    ranks, own = start_ranks(choose_device(device))
    return ranks, own, choose_precision(precision, own)


def start_ranks(device: torch.device) -> tuple[Ranks, torch.device]:
    """Join the processes started by torchrun, if any; returns ranks and device."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return ALONE, device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        store, rank, size = next(rendezvous("env://"))
        dist.init_process_group(
            backend, timeout=TIMEOUT, store=_of_this_start(store), rank=rank, world_size=size
        )
        atexit.register(dist.destroy_process_group)
        if dist.get_rank():  # one process prints; errors still reach stderr
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    return Ranks(dist.get_rank(), dist.get_world_size()), device
