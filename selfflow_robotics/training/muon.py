"""Muon (Keller Jordan, 2024), as `torch.optim.Muon` computes it, for any processor.

torch's own orthogonalises in bfloat16, one matrix after the other. A CPU without bfloat16
instructions emulates them: a training step of the embedded network then spends most of its time
there (docs/log.md). Here the iteration runs in float32 on such processors, and matrices of one
shape go through it together.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Of the quintic Newton-Schulz iteration, as in torch: steep at zero, so that five rounds suffice.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5
_EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for 2-D parameters; decoupled weight decay."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """`dtype`: in which the iteration runs. Raises ValueError for a parameter not 2-D."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon takes matrices, got shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            alike: defaultdict[tuple, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._with_momentum(parameter, group["momentum"])
                    alike[tuple(sorted(update.shape)), update.device].append((parameter, update))
            for pairs in alike.values():
                # A wide matrix and a tall one of the same sides are one shape.
                wide = [u if u.shape[0] <= u.shape[1] else u.mT for _, u in pairs]
                for (parameter, _), found in zip(
                    pairs, orthogonalize(torch.stack(wide), self._dtype), strict=True
                ):
                    rows, columns = parameter.shape
                    lr = group["lr"] * max(1.0, rows / columns) ** 0.5
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(found if rows <= columns else found.mT, alpha=-lr)
        return loss

    def _with_momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """Nesterov's momentum."""
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        return grad.lerp(buffer, momentum)


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices [K, R, C] with R <= C, each with its singular values brought near 1."""
    x = matrices.to(dtype)
    x = x / x.flatten(1).norm(dim=1).clamp(min=_EPS)[:, None, None]
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.to(matrices.dtype)
