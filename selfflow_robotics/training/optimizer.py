"""AdamW and Muon, and the learning-rate schedule."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from selfflow_robotics.errors import UserError
from selfflow_robotics.training.device import has_bf16
from selfflow_robotics.training.muon import Muon


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of AdamW and, if `muon` is on, of Muon for the matrices of transformer blocks."""

    lr: float = 1e-3  # AdamW
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01  # of matrices; biases, norms, embeddings, position tables: 0
    muon: bool = True
    muon_lr: float = 0.01
    muon_momentum: float = 0.95
    warmup_steps: int = 200
    constant_until: float = 0.3  # fraction of the run; then cosine decay
    final_lr: float = 0.02  # fraction of the peak
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "muon_lr", "clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"optimizer.{name} must be a positive number, got {value}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UserError(f"optimizer.weight_decay must be >= 0, got {self.weight_decay}")
        for name in ("betas", "muon_momentum"):
            value = getattr(self, name)
            if not all(0 <= x < 1 for x in (value if name == "betas" else [value])):
                raise UserError(f"optimizer.{name} must be in [0, 1), got {value}")
        if not 0 <= self.final_lr <= 1:
            raise UserError(f"optimizer.final_lr is a share in [0, 1], got {self.final_lr}")
        if self.warmup_steps < 0 or not 0 <= self.constant_until <= 1:
            raise UserError(
                "optimizer.warmup_steps must be >= 0 and optimizer.constant_until in [0, 1], got "
                f"{self.warmup_steps} and {self.constant_until}"
            )


# Weight decay applies to the matrices of these modules only: not to biases, norms, embeddings and
# position tables.
_DECAYED = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """[AdamW] or [AdamW, Muon].

    Muon takes the weights of the linear layers inside `blocks`. AdamW takes everything else, adaLN
    layers too: they read the timestep, not tokens.
    """
    hidden: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if parameter.ndim < 2 or not isinstance(module, _DECAYED):
                others.append(parameter)
            elif config.muon and isinstance(module, nn.Linear) and _reads_tokens(path):
                hidden.append(parameter)
            else:
                decayed.append(parameter)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
    ]
    if hidden:
        native = has_bf16(hidden[0].device)
        optimizers.append(
            Muon(
                hidden,
                lr=config.muon_lr,
                momentum=config.muon_momentum,
                weight_decay=config.weight_decay,
                dtype=torch.bfloat16 if native else torch.float32,
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _reads_tokens(path: str) -> bool:
    """Whether the linear layer at `path` is applied to tokens inside a block."""
    return ".blocks." in f".{path}" and "adaLN_modulation" not in path


def lr_factor(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Warm-up, constant, cosine: the factor in [0, 1] on every peak learning rate at `step`."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    start = config.constant_until * total_steps
    if step <= start:
        return warmup
    progress = min(1.0, (step - start) / max(1.0, total_steps - start))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return warmup * (config.final_lr + (1 - config.final_lr) * cosine)
