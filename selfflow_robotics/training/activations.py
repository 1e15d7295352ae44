"""Activation checkpointing: recompute a block's activations in the backward pass.

The backward pass then needs less memory and more time; results do not change. `full` keeps only the
inputs of every block, `selective` also the results of its matrix products and of fused attention,
which are most of the time and a third of the memory.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from selfflow_robotics.errors import unknown

Mode = Literal["none", "selective", "full"]

_KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
}


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """The modules in every list named `blocks`."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and f".{name}".endswith(".blocks"):
            yield from module


def checkpoint_activations(model: nn.Module, mode: Mode) -> None:
    """Checkpoint the activations of all blocks, in place; names of weights do not change."""
    if mode == "none":
        return
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if mode == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks_of(model):
        block.forward = partial(checkpoint, block.forward, **settings)


def _policy(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    if operation in _KEPT:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def check_mode(mode: str) -> None:
    """Raise UserError for an unknown `train.activation_checkpoint`."""
    if mode not in get_args(Mode):
        raise unknown("train.activation_checkpoint", mode, get_args(Mode))
