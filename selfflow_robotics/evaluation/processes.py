"""Processes started by torchrun that divide work by number and communicate only through files."""

import os
from dataclasses import dataclass

import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.training.device import choose_device


@dataclass(frozen=True)
class Process:
    """This process's index and the number of processes; a single one by default."""

    number: int = 0
    count: int = 1
    local: int = 0  # index on this machine

    @classmethod
    def from_environment(cls) -> "Process":
        """From torchrun's environment variables; a single process without them."""
        number, count, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
        return cls(number, count, local)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and collects."""
        return self.number == 0

    def share(self, total: int) -> range:
        """This process's share of `total` pieces of work."""
        return range(self.number, total, self.count)

    def device(self, name: str) -> torch.device:
        """The device `name`; for CUDA without an index, each process gets its own GPU.

        Raises UserError if the device does not exist.
        """
        device = choose_device(name)
        if device.type == "cuda":
            device = torch.device("cuda", self.local if device.index is None else device.index)
            found = torch.cuda.device_count()
            if device.index >= found:
                raise UserError(
                    f"{device} does not exist: torch sees {found} GPUs; start at most as many "
                    "processes, or choose another device"
                )
            torch.cuda.set_device(device)  # make it torch's current GPU
        return device
