"""The teacher: an exponential moving average of the student, the same copy that is evaluated."""

import copy

import torch
from torch import nn


def ema_decay(decay: float, step: int) -> float:
    """The decay at `step`: (1 + step) / (10 + step) at first, so that the start is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


def make_teacher(model: nn.Module) -> nn.Module:
    """A copy of `model` that never receives a gradient."""
    teacher = copy.deepcopy(model)
    teacher.requires_grad_(False)
    return teacher.eval()


@torch.no_grad()
def update_teacher(teacher: nn.Module, model: nn.Module, decay: float) -> None:
    """teacher <- decay teacher + (1 - decay) model, all parameters in one call."""
    torch._foreach_lerp_(list(teacher.parameters()), list(model.parameters()), 1 - decay)
