"""The teacher: an exponential moving average of the student, also used for evaluation."""

import copy
from typing import TypeVar

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Model = TypeVar("Model", bound=nn.Module)


def ema_decay(decay: float, step: int) -> float:
    """The decay at `step`: (1 + step) / (10 + step) at first, to forget the initial weights
    quickly."""
    return min(decay, (1 + step) / (10 + step))


def make_teacher(model: Model) -> Model:
    """A copy of `model` that never receives a gradient."""
    teacher = copy.deepcopy(model)
    teacher.requires_grad_(False)
    return teacher.eval()


def update_teacher(teacher: nn.Module, model: nn.Module, decay: float) -> None:
    """teacher <- decay teacher + (1 - decay) model, all parameters in one call."""
    update = get_ema_multi_avg_fn(decay)
    update(list(teacher.parameters()), list(model.parameters()), None)
