"""Self-Flow as it is usually written, to compare the library's speed with: same numbers, no care.

What the public code for SiT and Self-Flow does, written anew and as plainly: a timestep is spread
over the tokens and embedded and modulated for every one of them, also where all share it; the
teacher runs to its last layer; AdamW with torch's defaults; the moving average is a loop over
parameters; guidance evaluates both halves at every step. Conventions (t = 1 is noise) and weights
are the library's, so that results can be compared number by number.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.models.network import Network
from selfflow_robotics.objective.dual_timestep import draw_dual_timesteps
from selfflow_robotics.objective.self_flow import ObjectiveConfig


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
    def __init__(self, width: int, hidden: int, approximate: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU(approximate=approximate)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = _Mlp(width, int(width * mlp_ratio), "tanh")
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class _FinalLayer(nn.Module):
    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class _TimestepEmbedder(nn.Module):
    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        half = self.frequencies // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angles = (t[..., None] - 1) * freqs
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class _Projector(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, 2 * width)
        self.linear2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.silu(self.linear1(x)))


class PlainSiT(nn.Module):
    """The network of images of classes, written plainly, on the very parameters of a `Network`."""

    def __init__(self, source: Network) -> None:
        super().__init__()
        config, adapter = source.config, source.adapter("first_frame")
        assert adapter.grid_positions is not None
        self.null_label, self.channels = config.null_label, adapter.config.channels
        self.positions = adapter.grid_positions.flatten(0, 1)
        sit = config.backbone
        with torch.device("meta"):  # all of it is replaced by the source's own parameters
            self.x_embedder = nn.Linear(self.channels, sit.width)
            self.label_table = nn.Embedding(config.null_label + 1, sit.width)
            self.t_embedder = _TimestepEmbedder(sit.width)
            self.blocks = nn.ModuleList(
                _Block(sit.width, sit.heads, sit.mlp_ratio) for _ in range(sit.depth)
            )
            outputs = adapter.final_layer.linear.out_features
            self.final_layer = _FinalLayer(sit.width, outputs)
            self.projector = _Projector(sit.width)
        trained = [p.requires_grad for p in source.parameters()]
        weights = {_plain_name(name): p for name, p in source.named_parameters()}
        self.load_state_dict(weights, assign=True)
        for p, requires_grad in zip(source.parameters(), trained, strict=True):
            p.requires_grad_(requires_grad)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, C] at timesteps t [B] or [B, N] -> velocity, features after `layer`."""
        if t.ndim == 1:
            t = t[:, None].expand(-1, x.shape[1])
        c = self.t_embedder(t) + self.label_table(labels)[:, None]
        x = self.x_embedder(x) + self.positions
        features = x
        for i, block in enumerate(self.blocks):
            x = block(x, c)
            if i + 1 == layer:
                features = x
        velocity = self.final_layer(x, c)
        return velocity[..., : self.channels], features


def _plain_name(name: str) -> str:
    """The library's name of a parameter as `PlainSiT` has it."""
    name = name.removeprefix("backbone.").removeprefix(f"adapters.{FRAMES}.")
    return name.replace("stem.", "x_embedder.")


def plain_loss(
    student: PlainSiT,
    teacher: PlainSiT,
    x: Tensor,
    labels: Tensor,
    label_dropout: float,
    config: ObjectiveConfig,
    generator: torch.Generator,
) -> Tensor:
    """L_gen + gamma L_rep with the draws that `objective.loss` makes from `generator`."""
    hidden = torch.rand(len(labels), generator=generator, device=x.device) < label_dropout
    labels = torch.where(hidden, student.null_label, labels)
    tau = draw_dual_timesteps(
        len(x), x.shape[1], config.mask_ratio, config.timesteps, generator, None
    )
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    per_token = torch.gather(tau.values, 1, tau.index)
    x_t = (1 - per_token[..., None]) * x + per_token[..., None] * noise
    velocity, features = student(x_t, per_token, labels, config.student_layer)
    flow_loss = ((velocity.float() - (noise - x)) ** 2).mean()
    with torch.no_grad():
        cleaner = tau.values.min(dim=1).values
        x_cleaner = (1 - cleaner[:, None, None]) * x + cleaner[:, None, None] * noise
        _, target = teacher(x_cleaner, cleaner, labels, config.teacher_layer)
    predicted = student.projector(features)
    cosine = F.cosine_similarity(predicted.float(), target.float(), dim=-1).mean()
    return flow_loss - config.gamma * cosine


@torch.no_grad()
def plain_ema(teacher: nn.Module, model: nn.Module, decay: float) -> None:
    """teacher <- decay teacher + (1 - decay) model, one parameter after the other."""
    for average, p in zip(teacher.parameters(), model.parameters(), strict=True):
        average.mul_(decay).add_(p, alpha=1 - decay)


@torch.no_grad()
def plain_sample(
    model: PlainSiT, labels: Tensor, noise: Tensor, num_steps: int, guidance: float
) -> Tensor:
    """Tokens [B, N, C] of the classes by Euler's method; guided in t <= 0.7 where guidance > 1."""
    x, times = noise, torch.linspace(1, 0, num_steps + 1).tolist()
    null = torch.full_like(labels, model.null_label)
    for t, t_next in pairwise(times):
        at = torch.full((len(x),), t, device=x.device)
        if guidance > 1:
            both, _ = model(torch.cat([x, x]), torch.cat([at, at]), torch.cat([labels, null]), 1)
            v, v_null = both.float().chunk(2)
            if t <= 0.7:
                v = v_null + guidance * (v - v_null)
        else:
            v = model(x, at, labels, 1)[0].float()
        x = x + (t_next - t) * v
    return x
