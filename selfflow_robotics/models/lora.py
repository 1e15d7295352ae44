"""Low-rank updates of a frozen backbone (LoRA, arXiv 2106.09685).

The weight W of a linear layer becomes W + (alpha / rank) up down. It is a parametrization of the
layer: every use of the weight sees the sum, and merging leaves a plain layer with the same weight.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from selfflow_robotics.errors import UserError, check_least

MOST_RANK = 4096


@dataclass(frozen=True)
class LoraConfig:
    """Which layers get an update, and of which rank; rank 0 is none."""

    rank: int = 0
    alpha: float = 16.0
    # Linear layers of the blocks, by the end of their name; the same for SiT and FLUX.
    targets: tuple[str, ...] = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))  # a list in JSON
        check_least(self, 0, "rank", prefix="lora.")
        if self.rank > MOST_RANK:
            raise UserError(f"lora.rank must be at most {MOST_RANK}, got {self.rank}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UserError(f"lora.alpha must be a positive number, got {self.alpha}")
        if not self.targets:
            raise UserError("lora.targets is empty; name layers, such as [attn.qkv], or set rank=0")


class LowRank(nn.Module):
    """The update of one weight; zero at first, as `up` is."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.scale = scale
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as in LoRA's code

    def forward(self, weight: Tensor) -> Tensor:
        # Outside autocast, so that training and merging round alike.
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (self.up @ self.down)


def add_updates(backbone: nn.Module, config: LoraConfig) -> None:
    """Freeze the backbone and add updates to the linear layers of its blocks that `config` names.

    Raises UserError for a target that the backbone does not have.
    """
    backbone.requires_grad_(False)
    layers = {
        name: module
        for name, module in backbone.named_modules()
        if name.startswith("blocks.") and isinstance(module, nn.Linear)
    }
    for target in config.targets:
        chosen = [name for name in layers if f".{name}".endswith(f".{target}")]
        if not chosen:
            known = sorted({".".join(name.split(".")[-2:]) for name in layers})
            raise UserError(f"lora.targets: no layer is called {target}; there are {known}")
        for name in chosen:
            if not parametrize.is_parametrized(layers[name]):
                update = LowRank(layers[name].weight, config.rank, config.alpha / config.rank)
                # unsafe: do not compute the sum now, which the meta device cannot.
                parametrize.register_parametrization(layers[name], "weight", update, unsafe=True)


def merge_updates(backbone: nn.Module) -> None:
    """Add the updates to the weights; the layers are plain again."""
    for module in list(backbone.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
