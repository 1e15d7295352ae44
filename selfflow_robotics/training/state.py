"""The training state, saved and restored exactly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.training import checkpoint as ckpt
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers
from selfflow_robotics.training.teacher import make_teacher

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class TrainState(Generic[Model]):
    """The student, its moving average, the optimizers and the number of steps taken.

    It has no random state, as all draws are functions of (seed, step).
    """

    model: Model
    teacher: Model
    optimizers: list[torch.optim.Optimizer]
    step: int = 0

    @classmethod
    def start(cls, model: Model, config: OptimizerConfig) -> "TrainState[Model]":
        """The state before the first step: the moving average equals the student."""
        return cls(model, make_teacher(model), build_optimizers(model, config))

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of a checkpoint of this step."""
        return {
            "model": self.model.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": _flatten(self.model, self.optimizers),
        }

    def save(self, folder: Path, extra: dict[str, Any]) -> Path:
        """Write a checkpoint of this step; `extra` is stored in its manifest."""
        return ckpt.save_checkpoint(folder, self.step, self.parts(), extra)

    def load(self, checkpoint: Path) -> None:
        """Continue from a checkpoint folder; strict, and checked against its checksums. Of sharded
        networks, every process keeps its own part."""
        for name, module in (("model", self.model), ("teacher", self.teacher)):
            current = module.state_dict()
            tensors = {
                key: _like(current[key], tensor) if key in current else tensor
                for key, tensor in ckpt.load_part(checkpoint, name).items()
            }
            ckpt.load_weights(module, tensors, checkpoint)
        tensors = ckpt.load_part(checkpoint, "optimizer")
        _unflatten(self.model, self.optimizers, tensors, checkpoint)
        self.step = ckpt.read_manifest(checkpoint)["step"]


def _flatten(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Optimizer state as tensors named optimizer/parameter/entry, e.g. AdamW/head.bias/exp_avg."""
    return {
        f"{kind}/{name}/{entry}": torch.as_tensor(value)
        for (kind, name), (optimizer, parameter) in _places(model, optimizers).items()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def _unflatten(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    tensors: dict[str, Tensor],
    source: Path,
) -> None:
    """Restore every parameter's optimizer state by name.

    Raises UserError if a name or shape does not match a parameter of that optimizer, or entries are
    missing.
    """
    places = _places(model, optimizers)
    states: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition("/")
        name, _, entry = rest.rpartition("/")
        if (kind, name) not in places:
            raise UserError(f"{source}: the optimizer state '{key}' does not belong to a parameter")
        shape = places[kind, name][1].shape
        if tensor.shape not in (shape, torch.Size([])):
            raise UserError(
                f"{source}: the optimizer state '{key}' has shape {tuple(tensor.shape)}, but its "
                f"parameter has {tuple(shape)}"
            )
        parameter = places[kind, name][1]
        states.setdefault((kind, name), {})[entry] = _like(parameter, tensor)
    entries: dict[str, set[str]] = {}
    for (kind, name), state in states.items():
        if state.keys() != entries.setdefault(kind, set(state)):
            raise UserError(f"{source}: the optimizer state of '{name}' is incomplete")
    for optimizer in optimizers:
        numbers = {
            parameter: number
            for number, parameter in enumerate(
                parameter for group in optimizer.param_groups for parameter in group["params"]
            )
        }
        saved = optimizer.state_dict()
        saved["state"] = {
            numbers[places[place][1]]: state
            for place, state in states.items()
            if places[place][0] is optimizer
        }
        optimizer.load_state_dict(saved)


def _like(current: Tensor, tensor: Tensor) -> Tensor:
    """`tensor` sharded as `current` is, if it has its shape (a step count has not)."""
    if not isinstance(current, DTensor) or tensor.shape != current.shape:
        return tensor
    mesh = current.device_mesh
    own = tensor.to(mesh.device_type)
    return distribute_tensor(own, mesh, current.placements, src_data_rank=None)


def _places(
    model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> dict[tuple[str, str], tuple[torch.optim.Optimizer, Tensor]]:
    """(optimizer class, parameter name) -> (optimizer, parameter)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        (type(optimizer).__name__, names[parameter]): (optimizer, parameter)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
