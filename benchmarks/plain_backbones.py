"""Straightforward versions of the two backbones: modulation is computed per token.

Parameter names match the library's, so that both can share parameters. Image networks have no text:
the conditioning stream of the FLUX.2-style backbone is empty on both sides.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.rotary import THETA, axis_channels
from selfflow_robotics.models.sit import SiTConfig

EPS = 1e-6


class PlainTimestepEmbedder(nn.Module):
    def __init__(self, config: SiTConfig | FluxConfig, frequencies: int = 256) -> None:
        super().__init__()
        width = config.width
        self.scale, self.origin = config.timestep_scale, config.timestep_origin
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        half = self.frequencies // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angles = self.scale * (t[..., None] - self.origin) * freqs
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=EPS)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=EPS)
        self.mlp = _Mlp(width, int(width * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class PlainSiT(nn.Module):
    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        self.t_embedder = PlainTimestepEmbedder(config)
        self.blocks = nn.ModuleList(
            _Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )

    def forward(self, x: Tensor, c: Tensor, places: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Tokens x and conditions c [B, N, D] -> the last tokens, those after `layer` blocks."""
        features = x
        for i, block in enumerate(self.blocks):
            x = block(x, c)
            if i + 1 == layer:
                features = x
        return x, features


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = [first * cos - second * sin, first * sin + second * cos]
    return torch.stack(turned, dim=-1).flatten(-2)


class _RotaryAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.Parameter(torch.ones(width // heads))
        self.k_norm = nn.Parameter(torch.ones(width // heads))
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q = _rotate(_rms_norm(q, self.q_norm), cos, sin).to(v.dtype)
        k = _rotate(_rms_norm(k, self.k_norm), cos, sin).to(v.dtype)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + EPS) * weight


class _SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)


class _Stream(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=EPS)
        self.attn = _RotaryAttention(width, heads)
        self.mlp = _SwiGLU(width, hidden)


class _DoubleBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.conditioning = _Stream(width, heads, hidden)  # no words, no tokens
        self.visual = _Stream(width, heads, hidden)

    def forward(self, x: Tensor, rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        stream = self.visual
        shift1, scale1, gate1, shift2, scale2, gate2 = rows.chunk(6, dim=-1)
        x = x + gate1 * stream.attn(stream.norm(x) * (1 + scale1) + shift1, cos, sin)
        return x + gate2 * stream.mlp(stream.norm(x) * (1 + scale2) + shift2)


class _SingleBlock(_Stream):
    def forward(self, x: Tensor, rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shift, scale, gate = rows.chunk(3, dim=-1)
        h = self.norm(x) * (1 + scale) + shift
        return x + gate * (self.attn(h, cos, sin) + self.mlp(h))


class PlainFlux(nn.Module):
    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.config = config
        width, shape = config.width, (config.width, config.heads, config.hidden)
        self.t_embedder = PlainTimestepEmbedder(config)
        sizes = {"conditioning": 6, "visual": 6, "single": 3}
        self.adaLN_modulation = nn.ModuleDict(
            {name: nn.Linear(width, n * width, bias=False) for name, n in sizes.items()}
        )
        blocks = [_DoubleBlock(*shape) for _ in range(config.double)]
        self.blocks = nn.ModuleList(blocks + [_SingleBlock(*shape) for _ in range(config.single)])

    def forward(self, x: Tensor, c: Tensor, places: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """As `PlainSiT`, with the tokens' positions `places` [N, 3]."""
        angles = []
        for axis, channels in enumerate(axis_channels(self.config.head_size)):
            order = torch.arange(0, channels, 2, device=x.device) / channels
            angles.append(places[:, axis, None] * THETA**-order)
        angle = torch.cat(angles, dim=-1)
        cos, sin = angle.cos(), angle.sin()
        visual, single = (self.adaLN_modulation[name](F.silu(c)) for name in ("visual", "single"))
        features = x
        for i, block in enumerate(self.blocks):
            x = block(x, visual if i < self.config.double else single, cos, sin)
            if i + 1 == layer:
                features = x
        return x, features
