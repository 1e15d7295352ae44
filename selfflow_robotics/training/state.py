"""Everything that changes while training, and its way to disk and back to the last bit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from selfflow_robotics.training import checkpoint as ckpt
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers
from selfflow_robotics.training.teacher import make_teacher

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class TrainState(Generic[Model]):
    """The student, its moving average, the optimisers and the number of steps taken.

    There is no random state: every draw of a step is a function of (seed, step).
    """

    model: Model
    teacher: Model
    optimizers: list[torch.optim.Optimizer]
    step: int = 0

    @classmethod
    def start(cls, model: Model, config: OptimizerConfig) -> "TrainState[Model]":
        """Before the first step: the moving average is the student itself."""
        return cls(model, make_teacher(model), build_optimizers(model, config))

    def save(self, folder: Path, extra: dict[str, Any]) -> Path:
        """Write a checkpoint of this step; `extra` is stored in its manifest."""
        parts = {
            "model": self.model.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": _flatten(self.optimizers),
        }
        return ckpt.save_checkpoint(folder, self.step, parts, extra)

    def load(self, checkpoint: Path) -> None:
        """Continue from a checkpoint folder; strict, and checked against its checksums."""
        for name, module in (("model", self.model), ("teacher", self.teacher)):
            ckpt.load_weights(module, ckpt.load_part(checkpoint, name), checkpoint)
        _unflatten(self.optimizers, ckpt.load_part(checkpoint, "optimizer"))
        self.step = ckpt.read_manifest(checkpoint)["step"]


def _flatten(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Optimiser state as flat tensors named optimiser/parameter/entry."""
    return {
        f"{i}/{parameter}/{entry}": torch.as_tensor(value)
        for i, optimizer in enumerate(optimizers)
        for parameter, entries in optimizer.state_dict()["state"].items()
        for entry, value in entries.items()
    }


def _unflatten(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            which, parameter, entry = name.split("/")
            if int(which) == i:
                state.setdefault(int(parameter), {})[entry] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
