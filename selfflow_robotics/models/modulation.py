"""adaLN modulation, computed once per distinct timestep.

A network that computes modulation per token spends a third of its forward pass on it. Here each
sample has few distinct timesteps, one row of a table each, and an index from tokens to rows. Two
operations read the table; both save only their inputs for the backward pass (autograd would save
the table expanded to all tokens, and every intermediate result).
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6  # epsilon of the layer norm, as in DiT
# Up to this many rows, their gradients are a product with a one-hot matrix, which is deterministic;
# above, rows are summed by index.
FEW_ROWS = 8


class Modulation(NamedTuple):
    """The conditioning of few distinct timesteps, and the index from tokens to them."""

    cond: Tensor  # [G, V, D] embedded timestep (and label) of each distinct timestep
    index: Tensor  # [G, N] int64, in [0, V)


def spread(rows: Tensor, index: Tensor) -> Tensor:
    """Rows [G, V, D] expanded to tokens: [G, N, D], or [G, 1, D] if V = 1."""
    if rows.shape[1] == 1:
        return rows
    if rows.shape[1] == 2:  # fuses well
        return torch.where(index.unsqueeze(-1).bool(), rows[:, 1:], rows[:, :1])
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def gather_up(tokens: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """The transpose of `spread`: tokens [G, N, D] summed by row, [G, V, D]."""
    if num_rows == 1:
        return tokens.sum(dim=1, keepdim=True)
    if num_rows <= FEW_ROWS:
        one_hot = index[:, None] == torch.arange(num_rows, device=index.device)[:, None]
        return one_hot.to(tokens.dtype) @ tokens
    rows = tokens.new_zeros(tokens.shape[0], num_rows, tokens.shape[2])
    return rows.scatter_add_(1, index.unsqueeze(-1).expand_as(tokens), tokens)


def norm_modulate(x: Tensor, shift: Tensor, scale: Tensor, index: Tensor) -> Tensor:
    """LayerNorm(x) (1 + scale) + shift for tokens x [G, N, D] and rows [G, V, D]."""
    if _autograd_decides():
        return _norm_modulate(x, shift, scale, index)
    return _NormModulate.apply(x, shift, scale, index)  # pyright: ignore[reportReturnType]


def gated_add(x: Tensor, gate: Tensor, branch: Tensor, index: Tensor) -> Tensor:
    """x + gate branch for tokens x and branch [G, N, D] and rows [G, V, D]."""
    if _autograd_decides():
        return _gated_add(x, gate, branch, index)
    return _GatedAdd.apply(x, gate, branch, index)  # pyright: ignore[reportReturnType]


def _autograd_decides() -> bool:
    # A compiler fuses plain code better, and chooses what to save.
    return torch.compiler.is_compiling() or not torch.is_grad_enabled()


def _norm_modulate(x: Tensor, shift: Tensor, scale: Tensor, index: Tensor) -> Tensor:
    normed = F.layer_norm(x, x.shape[-1:], eps=EPS)
    return torch.addcmul(spread(shift, index), normed, 1 + spread(scale, index))


def _gated_add(x: Tensor, gate: Tensor, branch: Tensor, index: Tensor) -> Tensor:
    return torch.addcmul(x, spread(gate, index), branch)


class _NormModulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, scale: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(x, shift, scale, index)
        return _norm_modulate(x, shift, scale, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, scale, index = ctx.saved_tensors
        (grad,) = grads
        size, num_rows = list(x.shape[-1:]), scale.shape[1]
        normed, mean, rstd = torch.native_layer_norm(x, size, None, None, EPS)
        to_normed = grad * (1 + spread(scale, index))
        to_x, _, _ = torch.ops.aten.native_layer_norm_backward(
            to_normed, x, size, mean, rstd, None, None, [True, False, False]
        )
        to_shift = gather_up(grad, index, num_rows).to(shift.dtype)
        to_scale = gather_up(grad * normed, index, num_rows).to(scale.dtype)
        return to_x, to_shift, to_scale, None


class _GatedAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, branch: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(gate, branch, index)
        return _gated_add(x, gate, branch, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, branch, index = ctx.saved_tensors
        (grad,) = grads
        to_gate = gather_up(grad * branch, index, gate.shape[1]).to(gate.dtype)
        return grad, to_gate, (grad * spread(gate, index)).to(branch.dtype), None
