"""The Self-Flow loss (arXiv 2603.06507), L = L_gen + gamma L_rep, and its baselines.

The student denoises tokens at two noise levels (`dual_timestep`); the teacher, its moving average,
sees the same sample and noise at the cleaner level. The student's early features predict the
teacher's later ones. With mask_ratio = 0 and gamma = 0 this is vanilla flow matching. Other
objectives are other settings (configs/objective/): the timestep schedule, the source of the target
features, the layers and the distance. ReWorld's adds the flow loss of an auxiliary head that reads
the student's features.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from selfflow_robotics.batch import finite_tokens
from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.flow import path
from selfflow_robotics.flow.timesteps import TimestepConfig
from selfflow_robotics.objective.roles import FRAME_SLOTS
from selfflow_robotics.objective.schedules import SCHEDULES
from selfflow_robotics.rng import draw
from selfflow_robotics.timesteps import Timesteps

# network(x_t, timesteps, layers) -> (outputs, {layer: features}), with raw features. The teacher
# only computes features and may stop after them.
Denoiser = Callable[..., tuple[dict[str, Tensor], dict[int, Tensor]]]
# encoder(x) -> features [G, N, D], one per clean token.
Encoder = Callable[[dict[str, Tensor]], Tensor]
# auxiliary(features, timesteps) -> outputs of each slot, from features [G, N, D] of the student.
Auxiliary = Callable[[Tensor, Timesteps], dict[str, Tensor]]

Target = Literal["teacher", "student", "encoder", "latents"]
TeacherView = Literal["cleanest", "cleaner", "same"]
Distance = Literal["cosine", "l1", "smooth_l1"]
SMOOTH = 0.05  # beta of smooth_l1, from SRA 2 (arXiv 2601.17830)
ONE_LAYER = ("encoder", "latents")  # targets that are no layer of a network
CLEANER_BY = 0.2  # SRA's teacher is cleaner by U(0, 0.2) (arXiv 2505.02831)


@dataclass(frozen=True)
class ObjectiveConfig:
    """An objective; the defaults are Self-Flow, `gamma=0 mask_ratio=0` is vanilla flow matching.

    `target` is the source of the features that the student predicts: the moving average
    ("teacher"), its own deeper layers ("student"), a frozen encoder of the clean image ("encoder"),
    or the clean tokens of frames ("latents"). The teacher sees all tokens at min(t, s)
    ("cleanest"), slightly cleaner than the student ("cleaner"), or exactly as the student does
    ("same").
    """

    gamma: float = 0.8  # weight of L_rep (Eq. 7)
    gamma_warmup_steps: int = 0  # gamma grows linearly from 0 over this many steps
    mask_ratio: float = 0.25  # R_M: 0.25 image, 0.1 video, 0.5 audio in the paper
    mask_shape: Literal["token", "tube"] = "token"  # tube: the same mask in all frames of a clip
    schedule: str = "dual"  # a key of `objective.schedules`
    target: Target = "teacher"
    teacher_view: TeacherView = "cleanest"
    head: bool = True  # apply the training-only head h to the student's features
    distance: Distance = "cosine"
    separate_attention: bool = (
        False  # the two noise groups do not attend to each other (2607.02508)
    )
    # Weight of the flow loss of an auxiliary head after student_layer (arXiv 2606.27504, Eq. 10;
    # arXiv 2512.24176); 0: no head.
    auxiliary: float = 0.0
    student_layer: int = 1  # features after this block: l = 0.3 depth
    teacher_layer: int = 3  # k = 0.7 depth
    timesteps: TimestepConfig = field(default_factory=TimestepConfig)

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown("objective.schedule", self.schedule, SCHEDULES)
        if not 0 <= self.mask_ratio <= 0.5:
            raise UserError(f"objective.mask_ratio must be in [0, 0.5], got {self.mask_ratio}")
        for name in ("gamma", "auxiliary"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"objective.{name} must be >= 0 and finite, got {value}")
        if self.target != "teacher" and self.teacher_view != "cleanest":  # which is the default
            raise UserError(
                f"objective.teacher_view={self.teacher_view} has no effect with "
                f"objective.target={self.target}; remove it"
            )
        if self.gamma_warmup_steps < 0:
            raise UserError(
                f"objective.gamma_warmup_steps must be >= 0, got {self.gamma_warmup_steps}"
            )
        if self.student_layer < 1 or not (
            self.target in ONE_LAYER or self.student_layer < self.teacher_layer
        ):
            raise UserError(
                "objective.student_layer must be at least 1 and below objective.teacher_layer, got "
                f"{self.student_layer} and {self.teacher_layer}"
            )

    def gamma_at(self, step: int) -> float:
        """gamma at a training step."""
        return self.gamma * min(1.0, (step + 1) / max(1, self.gamma_warmup_steps))

    @property
    def has_teacher(self) -> bool:
        """Whether the moving average is used."""
        return self.gamma > 0 and self.target == "teacher"

    @property
    def auxiliary_layer(self) -> int | None:
        """The layer that the auxiliary head reads; None: there is no such head."""
        return self.student_layer if self.auxiliary > 0 else None


def check_layers(config: ObjectiveConfig, depth: int, key: str) -> None:
    """Raise UserError if a network of `depth` blocks does not have these layers."""
    name = "student_layer" if config.target in ONE_LAYER else "teacher_layer"
    layer = getattr(config, name)
    if layer > depth:
        raise UserError(
            f"{key}.{name} is {layer}, but the network has {depth} blocks; the paper uses layers "
            "at 0.3 and 0.7 of the depth"
        )


@dataclass
class LossTerms:
    """The loss and quantities to monitor (tensors, not yet read back)."""

    loss: Tensor  # scalar, differentiable
    flow_loss: Tensor  # scalar
    cosine: Tensor | None  # scalar: cosine to the target features; None if gamma = 0
    token_loss: dict[str, Tensor]  # per slot [G, N]: squared velocity error, mean over channels
    timesteps: Timesteps
    counted: Tensor  # bool [G, N of all slots]: valid tokens, in the order of the timesteps
    # raw [G, N, D]: the student's and, unless gamma = 0 or the target are latents, the target's
    features: dict[str, Tensor]
    # [G, N of all slots, or only of frames, which come first]; None when gamma = 0
    token_cosine: Tensor | None = None
    auxiliary_loss: Tensor | None = None  # scalar: the flow loss of the auxiliary head, if any
    # The loss as a sum of (mean, number of tokens in it), both scalars.
    means: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def num_tokens(self) -> int:
        """Number of denoised tokens, over all draws."""
        return self.counted.numel()


def self_flow_loss(
    student: Denoiser,
    teacher: Denoiser | None,
    project: Callable[[Tensor], Tensor],
    data: dict[str, Tensor],
    valid: dict[str, Tensor],
    prediction: Mapping[str, path.Prediction],
    config: ObjectiveConfig,
    generator: torch.Generator,
    *,
    gamma: float | None = None,
    weights: Mapping[str, float] | None = None,
    encoder: Encoder | None = None,
    auxiliary: Auxiliary | None = None,
    places: Tensor | None = None,
) -> LossTerms:
    """L = L_gen + gamma L_rep over the noised tokens of a sample (Eq. 7), plus the flow loss of an
    auxiliary head.

    Args:
        student, teacher: the network and its moving average, both with the clean part of the
            sample as context; `teacher` may be None if the objective has none.
        project: the training-only head h, applied only to the student's features.
        data: tokens x of each slot to denoise, without noise, [G, N_slot, D_slot].
        valid: mask of valid tokens, bool [G, N_slot]; all are valid for slots not given.
        prediction: what the network's output represents for each slot.
        generator: the only source of randomness.
        gamma: weight of L_rep at this step; None: the config's.
        weights: weight of each slot's mean error in L_gen; 1 if not given.
        encoder: for target = "encoder".
        auxiliary: the head, for an objective that has one.
        places: int64 [N], for tube masking: tokens at the same place share their mask.
    """
    data = {slot: finite_tokens(x, valid.get(slot)) for slot, x in data.items()}
    first = next(iter(data.values()))
    sizes = [x.shape[1] for x in data.values()]
    tau = SCHEDULES[config.schedule](
        first.shape[0], sum(sizes), config.mask_ratio, config.timesteps, generator, places
    )
    noise = {slot: draw(torch.randn, x.shape, generator, x.dtype) for slot, x in data.items()}
    x_t, t = at_timesteps(tau, data, noise)

    layers = (config.student_layer,)
    if config.gamma > 0 and config.target == "student":
        layers = (config.student_layer, config.teacher_layer)
    outputs, features = student(x_t, tau, layers)

    def flow_losses(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per slot [G, N]: the squared velocity error of each token."""
        errors = {}
        for slot, x in data.items():
            v_pred = path.as_velocity(outputs[slot].float(), prediction[slot], x_t[slot], t[slot])
            v_target = path.velocity_target(x, noise[slot], prediction[slot], x_t[slot], t[slot])
            errors[slot] = (v_pred - v_target).square().mean(dim=-1)
        return errors

    def slot_means(errors: dict[str, Tensor]) -> Tensor:
        """[S]: the mean over each slot's valid tokens (Eq. 2)."""
        return torch.stack([_masked_mean(error, valid.get(slot)) for slot, error in errors.items()])

    asked = [(weights or {}).get(slot, 1.0) for slot in data]
    if not all(weight >= 0 for weight in asked) or not 0 < sum(asked) < math.inf:
        raise UserError(
            f"the loss weights of {', '.join(data)} must be at least 0, one of them above, got "
            f"{asked}"
        )
    shares = torch.tensor(asked, dtype=torch.float32)
    shares = (shares / shares.sum()).to(first.device, non_blocking=True)
    token_loss = flow_losses(outputs)
    by_slot = slot_means(token_loss) * shares
    flow_loss = by_slot.sum()
    counted = torch.cat(
        [
            valid.get(slot, torch.ones_like(loss, dtype=torch.bool))
            for slot, loss in token_loss.items()
        ],
        dim=1,
    )
    counts = [one.sum() for one in counted.split(sizes, dim=1)]
    raw = features[config.student_layer]
    watched = {"student": raw.detach()}
    loss, auxiliary_loss = flow_loss, None
    if config.auxiliary > 0:
        assert auxiliary is not None
        early = slot_means(flow_losses(auxiliary(raw, tau))) * shares
        auxiliary_loss = early.sum()
        loss = flow_loss + config.auxiliary * auxiliary_loss
        by_slot = by_slot + config.auxiliary * early
    terms = LossTerms(loss, flow_loss, None, token_loss, tau, counted, watched)
    terms.auxiliary_loss = auxiliary_loss
    terms.means = tuple(zip(by_slot, counts, strict=True))
    if config.gamma == 0:
        return terms

    with torch.no_grad():
        if config.target == "encoder":
            assert encoder is not None
            target = encoder(data)
        elif config.target == "latents":
            target = torch.cat([data[slot] for slot in data if slot in FRAME_SLOTS], dim=1)
            raw, counted = raw[:, : target.shape[1]], counted[:, : target.shape[1]]
        elif config.target == "student":
            target = features[config.teacher_layer].detach()
        else:
            assert teacher is not None
            seen = _teacher_timesteps(tau, config.teacher_view, generator)
            x_teacher, _ = at_timesteps(seen, data, noise)
            layer = config.teacher_layer
            target = teacher(x_teacher, seen, (layer,))[1][layer]
    predicted = (project(raw) if config.head else raw).float()
    token_cosine = F.cosine_similarity(predicted, target.float(), dim=-1)
    cosine = _masked_mean(token_cosine, counted)
    if config.distance == "cosine":
        rep_loss = -cosine  # Eq. 6
    else:
        rep_loss = _masked_mean(_DISTANCES[config.distance](predicted, target.float()), counted)
    rep_loss = (config.gamma if gamma is None else gamma) * rep_loss
    terms.loss = loss + rep_loss
    terms.means = (*terms.means, (rep_loss, counted.sum()))
    terms.cosine, terms.token_cosine = cosine, token_cosine.detach()
    if config.target != "latents":  # which are no features, and do not change
        terms.features = {**watched, "teacher": target}
    return terms


# Of features [G, N, D], for each token: [G, N].
_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": lambda x, y: (x - y).abs().mean(dim=-1),
    "smooth_l1": lambda x, y: F.smooth_l1_loss(x, y, reduction="none", beta=SMOOTH).mean(dim=-1),
}


def at_timesteps(
    tau: Timesteps, x: dict[str, Tensor], noise: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The sample at its tokens' timesteps (Eq. 5), and the timesteps by slot [G, N, 1]."""
    sizes = [tokens.shape[1] for tokens in x.values()]
    t = dict(zip(x, tau.per_token.unsqueeze(-1).split(sizes, dim=1), strict=True))
    return {slot: path.interpolate(x[slot], noise[slot], t[slot]) for slot in x}, t


def _teacher_timesteps(tau: Timesteps, view: TeacherView, generator: torch.Generator) -> Timesteps:
    """The teacher's timesteps for tokens that the student sees at `tau`."""
    if view == "same":
        return tau
    if view == "cleaner":
        u = draw(torch.rand, tau.values.shape, generator)
        return tau._replace(values=(tau.values - CLEANER_BY * u).clamp(min=0))
    return Timesteps(tau.cleanest[:, None], torch.zeros_like(tau.index))


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values [G, N] where mask is true; 0 if it is nowhere true."""
    if mask is None:
        return values.mean()
    return (values * mask).sum() / mask.sum().clamp(min=1)
