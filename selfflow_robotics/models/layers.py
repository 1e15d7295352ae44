"""SiT's layers: attention, MLP, and the adaLN-Zero block with per-token timesteps."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from selfflow_robotics.errors import UserError
from selfflow_robotics.models.modulation import Modulation, gated_add, norm_modulate

KeyValue = tuple[Tensor, Tensor]  # keys and values, each [B, heads, N, D / heads]


def attend(
    q: Tensor, k: Tensor, v: Tensor, context: KeyValue | None, visible: Tensor | None = None
) -> Tensor:
    """Softmax attention of q, k, v [G, h, N, d] over their tokens and a shared context.

    The context [B, h, M, d] is shared by the G / B draws of each sample. `visible` is what tokens
    see: bool [G or 1, 1, N, M + N], or [G or 1, 1, N, N] for their own tokens, with all of the
    context visible; None: everything.
    """
    if visible is not None and context is not None and visible.shape[-1] == k.shape[2]:
        visible = F.pad(visible, (context[0].shape[2], 0), value=True)
    if q.device.type == "cpu" and k.shape[2] <= SHORT and not _fused_is_faster(q, context):
        return _attend_short(q, k, v, context, visible)
    if context is not None:
        draws = q.shape[0] // context[0].shape[0]
        k, v = (
            torch.cat([shared.repeat_interleave(draws, dim=0), own], dim=2)
            for shared, own in zip(context, (k, v), strict=True)
        )
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)


def at_own_timestep(index: Tensor, is_context: Tensor) -> Tensor:
    """Attention mask bool [G, 1, N, N]: tokens see those at the same timestep (`index` int64 [G,
    N]) and the context (`is_context` bool [N])."""
    return (index[:, None, :, None] == index[:, None, None, :]) | is_context


# Up to this many tokens, plain products beat fused attention on a CPU, whose backward is slow.
SHORT = 256


def _fused_is_faster(q: Tensor, context: KeyValue | None) -> bool:
    """For short sequences: only in the forward pass, in fp32, without a context shared by many
    draws."""
    return context is None and q.dtype == torch.float32 and not torch.is_grad_enabled()


def _attend_short(
    q: Tensor, k: Tensor, v: Tensor, context: KeyValue | None, visible: Tensor | None
) -> Tensor:
    """The same with explicit products; all draws of a sample share one product with the context."""
    q = q * q.shape[-1] ** -0.5
    own = q @ k.mT
    if context is None:
        if visible is not None:
            own = own.masked_fill(~visible, -torch.inf)
        return own.softmax(dim=-1) @ v
    shared_k, shared_v = context
    batch = shared_k.shape[0]
    folded = rearrange(q, "(b k) h n d -> b h (k n) d", b=batch)
    seen = rearrange(folded @ shared_k.mT, "b h (k n) m -> (b k) h n m", n=q.shape[2])
    scores = torch.cat([seen, own], dim=-1)
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    weights = scores.softmax(dim=-1).to(v.dtype)
    seen, own = weights.split([shared_k.shape[2], k.shape[2]], dim=-1)
    folded = rearrange(seen, "(b k) h n m -> b h (k n) m", b=batch) @ shared_v
    return rearrange(folded, "b h (k n) d -> (b k) h n d", n=q.shape[2]) + own @ v


def xavier(blocks: nn.Module) -> None:
    """DiT's initialization of linear layers: xavier, and no biases."""
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def zero(*modules: nn.Module) -> None:
    """Set every parameter of `modules` to zero."""
    for module in modules:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)


class Attention(nn.Module):
    """Multi-head self-attention; tokens may also attend to a context that does not attend back."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, context: KeyValue | None = None, visible: Tensor | None = None
    ) -> tuple[Tensor, KeyValue]:
        """Attention over x [G, N, D] and, if given, the context's keys and values [B, h, M, d].

        G is a multiple of B: G / B noise draws share one context. `visible` as in `attend`.
        """
        q, k, v = rearrange(self.qkv(x), "g n (three h d) -> three g h n d", three=3, h=self.heads)
        out = attend(q, k, v, context, visible)
        return self.proj(rearrange(out, "g h n d -> g n (h d)")), (k, v)

    def key_value(self, x: Tensor) -> KeyValue:
        """Only keys and values: the last block of a context needs nothing else."""
        width = x.shape[-1]
        kv = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])
        k, v = rearrange(kv, "g n (two h d) -> two g h n d", two=2, h=self.heads)
        return k, v


MOST_WIDTH, MOST_DEPTH = 2**15, 1000
MOST_RATIO = 64  # hidden width of an MLP divided by the width


def check_size(width: int, depth: int, mlp_ratio: float) -> None:
    """Raise UserError if the transformer is too wide or deep, or its MLP ratio is out of range."""
    if width > MOST_WIDTH or depth > MOST_DEPTH:
        raise UserError(
            f"model width must be at most {MOST_WIDTH} and depth at most {MOST_DEPTH}, got "
            f"{width} and {depth}"
        )
    if not (0 < mlp_ratio <= MOST_RATIO and int(width * mlp_ratio) >= 1):
        raise UserError(f"model mlp_ratio must be in (0, {MOST_RATIO}], got {mlp_ratio}")


class Mlp(nn.Module):
    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """A SiT block (DiT, arXiv 2212.09748, adaLN-Zero): attention and MLP, modulated by timestep."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = Mlp(width, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self,
        x: Tensor,
        mod: Modulation,
        context: KeyValue | None = None,
        visible: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Hidden tokens [G, N, D] -> output tokens, and the block's keys and values.

        `rows` [G, V, 6 D]: output of adaLN for `mod.cond`, if already computed.
        """
        index = mod.index
        known = self.adaLN_modulation(mod.cond) if rows is None else rows
        shift1, scale1, gate1, shift2, scale2, gate2 = known.chunk(6, dim=-1)
        attended, own = self.attn(norm_modulate(x, shift1, scale1, index), context, visible)
        x = gated_add(x, gate1, attended, index)
        return gated_add(x, gate2, self.mlp(norm_modulate(x, shift2, scale2, index)), index), own

    def key_value(self, x: Tensor, mod: Modulation) -> KeyValue:
        """Only the keys and values of this block."""
        shift, scale, *_ = self.adaLN_modulation(mod.cond).chunk(6, dim=-1)
        return self.attn.key_value(norm_modulate(x, shift, scale, mod.index))


class FinalLayer(nn.Module):
    """Modulated norm and linear map to a token's channels, initialized to zero."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        zero(self.linear, self.adaLN_modulation)

    def forward(
        self,
        x: Tensor,
        mod: Modulation,
        channels: int | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Hidden tokens [G, N, D] -> their channels, or only the first `channels` of them; `rows`
        [G, V, 2 D] as in `Block`."""
        known = self.adaLN_modulation(mod.cond) if rows is None else rows
        shift, scale = known.chunk(2, dim=-1)
        x = norm_modulate(x, shift, scale, mod.index)
        if channels is None:
            return self.linear(x)
        return F.linear(x, self.linear.weight[:channels], self.linear.bias[:channels])


class Projector(nn.Module):
    """The training-only head h of Eq. 6: predicts the target's features from the student's."""

    def __init__(self, width: int, out_channels: int | None = None) -> None:
        """`out_channels`: channels of the target; None: the student's width, as for a teacher."""
        super().__init__()
        out_channels = out_channels or width
        self.linear1 = nn.Linear(width, width + out_channels)
        self.linear2 = nn.Linear(width + out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.silu(self.linear1(x)))
