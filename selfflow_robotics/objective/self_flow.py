"""The loss of Self-Flow (arXiv 2603.06507): L = L_gen + gamma L_rep.

The student denoises tokens that stand at two noise levels (`dual_timestep`); the teacher, its
moving average, sees the same sample with the same noise at the cleaner of the two. The student's
early features must predict the teacher's later ones. With mask_ratio = 0 and gamma = 0 this is
vanilla flow matching.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.flow import path
from selfflow_robotics.flow.timesteps import TimestepConfig
from selfflow_robotics.objective.dual_timestep import DualTimesteps, draw_dual_timesteps

# network(x_t, (values, index), layer) -> (outputs, features). `layer` asks for the raw features
# after that many blocks; the teacher is asked for features alone and may stop there.
Network = Callable[..., tuple[dict[str, Tensor], Tensor | None]]


@dataclass(frozen=True)
class ObjectiveConfig:
    """Self-Flow's own settings; `gamma=0 mask_ratio=0` is vanilla flow matching."""

    gamma: float = 0.8  # weight of L_rep (Eq. 7)
    mask_ratio: float = 0.25  # R_M: 0.25 image, 0.1 video, 0.5 audio in the paper
    student_layer: int = 1  # features after this many blocks: l = 0.3 depth
    teacher_layer: int = 3  # k = 0.7 depth
    timesteps: TimestepConfig = field(default_factory=TimestepConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.mask_ratio <= 0.5:
            raise UserError(f"objective.mask_ratio must be in [0, 0.5], got {self.mask_ratio}")
        if not self.gamma >= 0:
            raise UserError(f"objective.gamma must be >= 0, got {self.gamma}")
        if not 1 <= self.student_layer < self.teacher_layer:
            raise UserError(
                "objective.student_layer must be at least 1 and below objective.teacher_layer, got "
                f"{self.student_layer} and {self.teacher_layer}"
            )


def check_layers(config: ObjectiveConfig, depth: int, key: str) -> None:
    """Raise UserError where a network of `depth` blocks has no such layers."""
    if config.teacher_layer > depth:
        raise UserError(
            f"{key}.teacher_layer is {config.teacher_layer}, the network has {depth} blocks; "
            "0.3 and 0.7 of the depth are the paper's student and teacher layers"
        )


@dataclass
class LossTerms:
    """One evaluation of the loss and what is worth watching of it (tensors, not yet read back)."""

    loss: Tensor  # scalar, differentiable
    flow_loss: Tensor  # scalar
    cosine: Tensor | None  # scalar: teacher-student cosine, None when gamma = 0
    token_loss: dict[str, Tensor]  # per slot [G, N]: squared velocity error, mean over channels
    timesteps: DualTimesteps
    counted: Tensor  # bool [G, N of all slots]: the tokens that count, in the timesteps' order
    token_cosine: Tensor | None = None  # [G, N of all slots]; None, as the next, when gamma = 0
    features: tuple[Tensor, Tensor] | None = None  # raw, student's and teacher's [G, N, D]


def self_flow_loss(
    student: Network,
    teacher: Network | None,
    project: Callable[[Tensor], Tensor],
    noised: dict[str, Tensor],
    valid: dict[str, Tensor],
    prediction: Mapping[str, path.Prediction],
    config: ObjectiveConfig,
    generator: torch.Generator,
) -> LossTerms:
    """L = L_gen + gamma L_rep over the noised tokens of a sample (Eq. 7).

    Args:
        student, teacher: the network and its moving average; `teacher` may be None when gamma = 0.
            Whatever is clean in the sample they hold already.
        project: the train-only head h, applied to the student's features alone.
        noised: clean tokens x of each slot to denoise, [G, N_slot, D_slot].
        valid: which of them count, bool [G, N_slot]; a slot that is missing counts whole.
        prediction: what the network's output of each slot stands for.
        generator: the only source of randomness.
    """
    first = next(iter(noised.values()))
    sizes = [x.shape[1] for x in noised.values()]
    tau = draw_dual_timesteps(
        first.shape[0], sum(sizes), config.mask_ratio, config.timesteps, generator
    )
    noise = {
        slot: torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        for slot, x in noised.items()
    }
    t = dict(zip(noised, tau.per_token.unsqueeze(-1).split(sizes, dim=1), strict=True))
    x_t = {slot: path.interpolate(x, noise[slot], t[slot]) for slot, x in noised.items()}  # Eq. 5

    layer = config.student_layer if config.gamma > 0 else None
    outputs, features = student(x_t, (tau.values, tau.index), layer)

    token_loss, flow_losses = {}, []
    for slot, x in noised.items():
        v_pred = path.as_velocity(outputs[slot].float(), prediction[slot], x_t[slot], t[slot])
        v_target = path.velocity_target(x, noise[slot], prediction[slot], x_t[slot], t[slot])
        token_loss[slot] = (v_pred - v_target).square().mean(dim=-1)
        flow_losses.append(_masked_mean(token_loss[slot], valid.get(slot)))  # Eq. 2
    flow_loss = torch.stack(flow_losses).mean()
    counted = torch.cat(
        [
            valid.get(slot, torch.ones_like(loss, dtype=torch.bool))
            for slot, loss in token_loss.items()
        ],
        dim=1,
    )
    if config.gamma == 0:
        return LossTerms(flow_loss, flow_loss, None, token_loss, tau, counted)

    assert teacher is not None
    assert features is not None
    with torch.no_grad():
        t_teacher = tau.teacher[:, None]
        x_teacher = {
            slot: path.interpolate(x, noise[slot], t_teacher[..., None])
            for slot, x in noised.items()
        }
        index = torch.zeros_like(tau.index)
        _, target = teacher(x_teacher, (t_teacher, index), config.teacher_layer)
    assert target is not None
    token_cosine = F.cosine_similarity(project(features).float(), target.float(), dim=-1)  # Eq. 6
    cosine = _masked_mean(token_cosine, counted)
    return LossTerms(
        loss=flow_loss - config.gamma * cosine,
        flow_loss=flow_loss,
        cosine=cosine,
        token_loss=token_loss,
        timesteps=tau,
        counted=counted,
        token_cosine=token_cosine.detach(),
        features=(features.detach(), target),
    )


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values [G, N] over the places where mask is true; 0 where none is."""
    if mask is None:
        return values.mean()
    return (values * mask).sum() / mask.sum().clamp(min=1)
