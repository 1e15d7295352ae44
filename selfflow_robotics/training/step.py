"""The loss of one batch, and its mean over the tokens of all processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from selfflow_robotics.training.distributed import Ranks


@dataclass
class StepLoss:
    """Result of a loss function: the scalar loss, the number of tokens, and metrics, which are
    computed only at logged steps.

    `means`: the loss as a sum of (mean, number of tokens in it), both scalars, for losses whose
    processes may count different numbers of tokens; empty if they count equally many.
    """

    loss: Tensor
    num_tokens: int
    metrics: Callable[[], dict[str, Any]] = dict
    means: Sequence[tuple[Tensor, Tensor]] = ()
    num_samples: int = 0
    num_flops: float = 0.0  # of matrix products; 0: unknown


LossFunction = Callable[[Any, torch.Generator], StepLoss]


def over_all_tokens(out: StepLoss, ranks: Ranks) -> StepLoss:
    """The loss scaled so that its mean over the processes is the mean over all their tokens.

    A mean of the processes' means would give a token more weight where there are fewer of them.
    """
    if ranks.size == 1 or not out.means:
        return out
    values = torch.stack([value for value, _ in out.means])
    counts = torch.stack([count for _, count in out.means]).to(values.dtype)
    scale = ranks.size * counts / ranks.sum(counts).clamp(min=1)
    return replace(out, loss=(values * scale).sum())
