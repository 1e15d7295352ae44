"""Data-parallel training: torchrun starts processes, gradients are averaged, the first one writes.

    torchrun --nproc-per-node=8 pretrain/images.py --data ...

The batch size is the total over all processes. Gradients are averaged after the backward pass
instead of by a wrapper around the network, so a loss may call the network in any way. Every process
has all weights and draws the noise of its share.
"""

import atexit
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.training.device import (
    choose_device,
    choose_precision,
    keep_freed_memory,
    set_threads,
)

Item = TypeVar("Item")

BUCKET_BYTES = 64 * 2**20  # bucket size for communicating gradients
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
        """This process's share of a global batch. Raises UserError if it does not divide."""
        if len(batch) % self.size:
            raise UserError(
                f"a batch of {len(batch)} is not divisible by {self.size} processes; choose "
                "another batch size"
            )
        return batch[self.rank :: self.size]

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average every gradient over the processes."""
        if self.size == 1:
            return
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            flat /= self.size
            for gradient, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over the processes, detached."""
        value = value.detach()
        if self.size == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.size

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        raised = torch.tensor(float(flag), device=device)
        dist.all_reduce(raised)
        return raised.item() > 0

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
        dist.init_process_group(backend, timeout=TIMEOUT)
        atexit.register(dist.destroy_process_group)
        if dist.get_rank():  # one process prints; errors still reach stderr
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    return Ranks(dist.get_rank(), dist.get_world_size()), device


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
        if size >= BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
