"""A straightforward implementation of Self-Flow, as the baseline for the library's speed.

It does what the public code for SiT, FLUX and Self-Flow does, reimplemented: timesteps are embedded
and modulated per token even if all tokens share one, the teacher runs to its last layer, AdamW uses
torch's defaults, the moving average is a loop over parameters, and guidance evaluates both halves
at every step. It shares conventions (t = 1 is noise) and weights with the library, so results can
be compared number by number.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain_backbones import PlainFlux, PlainSiT
from selfflow_robotics.batch import frame_places
from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.dual_timestep import draw_dual_timesteps
from selfflow_robotics.objective.self_flow import ObjectiveConfig


class _FinalLayer(nn.Module):
    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class _Projector(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, 2 * width)
        self.linear2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.silu(self.linear1(x)))


class PlainNetwork(nn.Module):
    """A plain version of the image network that shares the parameters of a `Network`."""

    def __init__(self, source: Network) -> None:
        super().__init__()
        self.config, adapter = source.config, source.config.adapters[FRAMES]
        self.channels, backbone = adapter.channels, source.config.backbone
        assert adapter.grid is not None
        weight = source.projector.linear1.weight
        self.places = frame_places(adapter.grid, 1).to(weight.device)
        self.positions = source.adapter("first_frame").grid_positions  # None if rotary
        width, outputs = backbone.width, adapter.channels * (1 + adapter.learn_sigma)
        with torch.device("meta"):  # all replaced by the source's parameters
            is_sit = isinstance(backbone, SiTConfig)
            self.backbone = PlainSiT(backbone) if is_sit else PlainFlux(backbone)
            stem, final = nn.Linear(adapter.channels, width), _FinalLayer(width, outputs)
            self.adapters = nn.ModuleDict(
                {FRAMES: nn.ModuleDict({"stem": stem, "final_layer": final})}
            )
            self.label_table = nn.Embedding(source.config.null_label + 1, width)
            self.projector = _Projector(width)
        trained = [p.requires_grad for p in source.parameters()]
        self.load_state_dict(dict(source.named_parameters()), assign=True)
        for p, requires_grad in zip(source.parameters(), trained, strict=True):
            p.requires_grad_(requires_grad)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, C] at timesteps t [B] or [B, N] -> velocity, features after `layer`."""
        if t.ndim == 1:
            t = t[:, None].expand(-1, x.shape[1])
        c = self.backbone.t_embedder(t) + self.label_table(labels)[:, None]
        stem, final_layer = (
            self.adapters.get_submodule(f"{FRAMES}.{name}") for name in ("stem", "final_layer")
        )
        x = stem(x)
        if self.positions is not None:
            x = x + self.positions.flatten(0, 1)
        x, features = self.backbone(x, c, self.places, layer)
        velocity = final_layer(x, c)
        return velocity[..., : self.channels], features


def plain_loss(
    student: PlainNetwork,
    teacher: PlainNetwork,
    x: Tensor,
    labels: Tensor,
    label_dropout: float,
    config: ObjectiveConfig,
    generator: torch.Generator,
) -> Tensor:
    """L_gen + gamma L_rep with the draws that `objective.loss` makes from `generator`."""
    hidden = torch.rand(len(labels), generator=generator, device=x.device) < label_dropout
    labels = torch.where(hidden, student.config.null_label, labels)
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
    model: PlainNetwork, labels: Tensor, noise: Tensor, num_steps: int, guidance: float
) -> Tensor:
    """Tokens [B, N, C] of the classes by Euler's method; guided in t <= 0.7 where guidance > 1."""
    x, times = noise, torch.linspace(1, 0, num_steps + 1).tolist()
    null = torch.full_like(labels, model.config.null_label)
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
