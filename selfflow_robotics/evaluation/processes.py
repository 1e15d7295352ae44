"""Processes that torchrun started and that share work by number, talking through files alone."""

import os
from dataclasses import dataclass

import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.training.device import choose_device


@dataclass(frozen=True)
class Process:
    """This process, of so many; alone by default."""

    number: int = 0
    count: int = 1
    local: int = 0  # its number on this machine

    @classmethod
    def from_environment(cls) -> "Process":
        """What torchrun says. Without torchrun the process is alone."""
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
        """Which of `total` pieces of work are this process's."""
        return range(self.number, total, self.count)

    def device(self, name: str) -> torch.device:
        """The device `name`; where it is CUDA without a number, each process has its own.

        Raises UserError for a device that is not there.
        """
        device = choose_device(name)
        if device.type == "cuda":
            device = torch.device("cuda", self.local if device.index is None else device.index)
            found = torch.cuda.device_count()
            if device.index >= found:
                raise UserError(
                    f"there is no {device}: torch sees {found} GPUs; start at most as many "
                    "processes, or choose another device"
                )
            torch.cuda.set_device(device)  # what torch says of "the GPU" is now said of this one
        return device
