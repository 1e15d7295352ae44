"""Muon (Keller Jordan, 2024): the update of `torch.optim.Muon`, but fast on any processor.

torch's version orthogonalizes in bfloat16, one matrix at a time. A CPU without bfloat16
instructions emulates them, and then spends most of a training step there (docs/log.md). This
version uses float32 on such processors and processes matrices of equal shape as a batch.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

# Coefficients of the quintic Newton-Schulz iteration, as in torch; five rounds are enough because
# it is steep at zero.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5
_EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Orthogonalized momentum for 2-D parameters, with decoupled weight decay."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """`dtype`: dtype of the iteration. Raises ValueError for parameters that are not 2-D."""
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
                    # Tall matrices are transposed, so that both orientations share a batch.
                    wide = update if update.shape[0] <= update.shape[1] else update.mT
                    places = wide.placements if isinstance(wide, DTensor) else None
                    alike[wide.shape, wide.device, places].append((parameter, wide))
            for pairs in alike.values():
                updates = _orthogonalize(torch.stack([wide for _, wide in pairs]), self._dtype)
                for (parameter, _), found in zip(pairs, updates.unbind(), strict=True):
                    rows, columns = parameter.shape
                    lr = group["lr"] * max(1.0, rows / columns) ** 0.5
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(found if rows <= columns else found.mT, alpha=-lr)
        return loss

    def _with_momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """The parameter's gradient with Nesterov momentum."""
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        return grad.lerp(buffer, momentum)


def _orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """`orthogonalize`; if the matrices are sharded over processes, each gets a share of whole ones
    (an all-to-all there and back), so that the work is divided too."""
    if not isinstance(matrices, DTensor):
        return orthogonalize(matrices, dtype)
    shares = matrices.redistribute(placements=[Shard(0)])
    found = DTensor.from_local(
        orthogonalize(shares.to_local(), dtype),
        matrices.device_mesh,
        [Shard(0)],
        run_check=False,
        shape=matrices.shape,
        stride=shares.stride(),
    )
    return found.redistribute(placements=matrices.placements)


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Move the singular values of each matrix close to 1; `matrices` [K, R, C] with R <= C."""
    x = matrices.to(dtype)
    x = x / x.flatten(1).norm(dim=1).clamp(min=_EPS)[:, None, None]
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.to(matrices.dtype)
