"""Double-stream and single-stream blocks of a FLUX.2-style transformer.

Both take and return one sequence that starts with the tokens of the conditioning stream. As in
SiT's blocks, tokens can attend to a context that does not attend back.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from selfflow_robotics.models.layers import KeyValue, attend
from selfflow_robotics.models.modulation import gated_add, norm_modulate
from selfflow_robotics.models.rotary import norm_and_turn


class Rows(NamedTuple):
    """Output of the shared modulation layers for the V distinct timesteps."""

    conditioning: Tensor  # [G, V, 6 D] for the conditioning stream
    visual: Tensor  # [G, V, 6 D] for the visual stream
    single: Tensor  # [G, V, 3 D] for the single-stream blocks


class Layout(NamedTuple):
    """What blocks need to know about their sequence."""

    rows: Rows
    index: Tensor  # int64 [G, N]: row of each token
    turns: Tensor  # [N, d / 2, 2]: rotary positions
    conditioning: int  # number of leading tokens in the conditioning stream
    visible: Tensor | None = None  # as in `layers.attend`


class FluxAttention(nn.Module):
    """Attention with QK norm and rotary positions, split into steps."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.Parameter(torch.ones(width // heads))
        self.k_norm = nn.Parameter(torch.ones(width // heads))
        self.proj = nn.Linear(width, width, bias=False)

    def query_key_value(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens x [G, N, D] -> their queries, keys and values, each [G, heads, N, d]."""
        qkv = rearrange(self.qkv(x), "g n (three h d) -> three g h n d", three=3, h=self.heads)
        weight = torch.stack([self.q_norm, self.k_norm])[:, None, None, None]
        q, k = norm_and_turn(qkv[:2], weight, turns)
        return q, k, qkv[2]

    def key_value(self, x: Tensor, turns: Tensor) -> KeyValue:
        """Only keys and values."""
        width = x.shape[-1]
        kv = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])
        k, v = rearrange(kv, "g n (two h d) -> two g h n d", two=2, h=self.heads)
        return norm_and_turn(k, self.k_norm, turns), v

    def out(self, attended: Tensor) -> Tensor:
        """[G, heads, N, d] -> [G, N, D]."""
        return self.proj(rearrange(attended, "g h n d -> g n (h d)"))


class SwiGLU(nn.Module):
    """MLP with a gated hidden layer (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden, bias=False)  # gate and value
        self.fc2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)


class Stream(nn.Module):
    """One stream's weights in a double-stream block: the parts before and after the attention."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attn = FluxAttention(width, heads)
        self.mlp = SwiGLU(width, hidden)

    def modulated(self, x: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        """The input of the attention."""
        shift, scale, *_ = rows.chunk(6, dim=-1)
        return norm_modulate(x, shift, scale, index)

    def after(self, x: Tensor, attended: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        """The stream's output tokens."""
        _, _, gate1, shift2, scale2, gate2 = rows.chunk(6, dim=-1)
        x = gated_add(x, gate1, self.attn.out(attended), index)
        return gated_add(x, gate2, self.mlp(norm_modulate(x, shift2, scale2, index)), index)


class DoubleBlock(nn.Module):
    """Separate weights per stream, joint attention."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.conditioning = Stream(width, heads, hidden)
        self.visual = Stream(width, heads, hidden)

    def forward(
        self, x: Tensor, layout: Layout, context: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        """Hidden tokens [G, N, D] -> output tokens, and the block's keys and values."""
        parts = self._parts(layout)
        triples = [
            stream.attn.query_key_value(
                stream.modulated(x[:, at], rows, layout.index[:, at]), layout.turns[at]
            )
            for stream, rows, at in parts
        ]
        q, k, v = (_join(same, dim=2) for same in zip(*triples, strict=True))
        attended = attend(q, k, v, context, layout.visible)
        moved = [
            stream.after(x[:, at], attended[:, :, at], rows, layout.index[:, at])
            for stream, rows, at in parts
        ]
        return _join(moved, dim=1), (k, v)

    def key_value(self, x: Tensor, layout: Layout) -> KeyValue:
        """Only the keys and values of this block."""
        pairs = [
            stream.attn.key_value(
                stream.modulated(x[:, at], rows, layout.index[:, at]), layout.turns[at]
            )
            for stream, rows, at in self._parts(layout)
        ]
        k, v = (_join(same, dim=2) for same in zip(*pairs, strict=True))
        return k, v

    def _parts(self, layout: Layout) -> list[tuple[Stream, Tensor, slice]]:
        """Weights, modulation rows and slice of each stream that has tokens."""
        cut, end = layout.conditioning, layout.index.shape[1]
        streams = [
            (self.conditioning, layout.rows.conditioning, slice(0, cut)),
            (self.visual, layout.rows.visual, slice(cut, end)),
        ]
        return [(stream, rows, at) for stream, rows, at in streams if at.start < at.stop]


def _join(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim=dim)


class SingleBlock(nn.Module):
    """Shared weights for all tokens; attention and MLP run in parallel on the same input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attn = FluxAttention(width, heads)
        self.mlp = SwiGLU(width, hidden)

    def forward(
        self, x: Tensor, layout: Layout, context: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        """As `DoubleBlock`."""
        shift, scale, gate = layout.rows.single.chunk(3, dim=-1)
        modulated = norm_modulate(x, shift, scale, layout.index)
        q, k, v = self.attn.query_key_value(modulated, layout.turns)
        attended = attend(q, k, v, context, layout.visible)
        branch = self.attn.out(attended) + self.mlp(modulated)
        return gated_add(x, gate, branch, layout.index), (k, v)

    def key_value(self, x: Tensor, layout: Layout) -> KeyValue:
        """As `DoubleBlock`."""
        shift, scale, _ = layout.rows.single.chunk(3, dim=-1)
        modulated = norm_modulate(x, shift, scale, layout.index)
        return self.attn.key_value(modulated, layout.turns)
