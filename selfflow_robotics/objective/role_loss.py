"""From a sample and a row of the role table to the loss: what is shown, what is denoised.

Several noise draws of a sample share one pass over its clean tokens, which cannot see the noised
ones: the expensive part (looking at the picture) is paid once, the cheap part (denoising six
actions) is practised at many noise levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.flow import path
from selfflow_robotics.objective.roles import Role, arrange
from selfflow_robotics.objective.self_flow import (
    Encoder,
    LossTerms,
    ObjectiveConfig,
    self_flow_loss,
)


@dataclass(frozen=True)
class ConditioningConfig:
    """How the clean part of a sample is shown in training."""

    draws: int = 8  # noise draws of an action chunk that share one look at the picture
    frame_draws: int = 1  # the same where frames are denoised: they cost twenty times as much
    frame_noise: float = 0.0  # the clean frame's own noise level ~ U(0, this); 0.2 in the paper
    text_dropout: float = 0.1  # how often the instruction is hidden, for guidance

    def __post_init__(self) -> None:
        if self.draws < 1 or self.frame_draws < 1:
            raise UserError("conditioning.draws and conditioning.frame_draws must be at least 1")
        if not (0 <= self.frame_noise < 1 and 0 <= self.text_dropout <= 1):
            raise UserError(
                "conditioning.frame_noise must be in [0, 1) and text_dropout in [0, 1], got "
                f"{self.frame_noise} and {self.text_dropout}"
            )


class ContextNetwork(Protocol):
    """What the loss needs of a network (`models.multimodal.MultimodalSiT`)."""

    projector: Any

    @property
    def prediction(self) -> Mapping[str, path.Prediction]: ...

    def encode_context(
        self,
        clean: dict[str, Tensor],
        instructions: list[str] | None,
        timesteps: dict[str, Tensor] | None = None,
        *,
        still: Tensor | None = None,
        num_blocks: int | None = None,
    ) -> Any: ...

    def __call__(self, noised: Any, timesteps: Any, context: Any, *args: Any, **kw: Any) -> Any: ...


@dataclass
class Sample:
    """One batch as tokens: slots of `objective.roles`, each [B, N, C]."""

    tokens: dict[str, Tensor]
    valid: dict[str, Tensor]  # bool [B, N] for slots that may run past an episode's end
    instructions: list[str]


def role_loss(
    model: ContextNetwork,
    teacher: ContextNetwork,
    sample: Sample,
    role: Role,
    objective: ObjectiveConfig,
    conditioning: ConditioningConfig,
    generator: torch.Generator,
    *,
    step: int | None = None,
    encoder: Encoder | None = None,
) -> LossTerms:
    """The loss of one batch that plays `role`; G = B x draws.

    `step` is for objectives that warm up (None: no warm-up), `encoder` for those with a frozen one.
    """
    clean, noised = arrange(role, sample.tokens)
    only_actions = set(noised) == {"actions"}
    draws = conditioning.draws if only_actions else conditioning.frame_draws
    noised = {slot: x.repeat_interleave(draws, dim=0) for slot, x in noised.items()}
    valid = {
        slot: sample.valid[slot].repeat_interleave(draws, dim=0)
        for slot in noised
        if slot in sample.valid
    }
    instructions = _hide_some(sample.instructions, conditioning.text_dropout, generator)
    still = clean.get("first_frame")
    clean, levels = _augment(clean, conditioning.frame_noise, generator)

    context = model.encode_context(clean, instructions, levels, still=still)
    teacher_context = None
    if objective.has_teacher:
        with torch.no_grad():
            teacher_context = teacher.encode_context(
                clean, instructions, levels, num_blocks=objective.teacher_layer
            )
    separate = {"separate_attention": objective.separate_attention}
    return self_flow_loss(
        student=lambda x_t, tau, layers: model(x_t, tau, context, layers, **separate),
        teacher=lambda x_t, tau, layers: teacher(
            x_t, tau, teacher_context, layers, features_only=True, **separate
        ),
        project=model.projector,
        noised=noised,
        valid=valid,
        prediction=model.prediction,
        config=objective,
        generator=generator,
        gamma=None if step is None else objective.gamma_at(step),
        encoder=encoder,
        places=_places(noised, sample) if objective.mask_shape == "tube" else None,
    )


def _places(noised: dict[str, Tensor], sample: Sample) -> Tensor:
    """A number for every noised token [N]: tokens at one place of their frames share it."""
    per_frame = sample.tokens["first_frame"].shape[1]
    places, beyond = [], 0 if set(noised) == {"actions"} else per_frame
    for slot, x in noised.items():
        count = x.shape[1]
        if slot == "actions":
            places.append(torch.arange(beyond, beyond + count, device=x.device))
            beyond += count
        else:
            places.append(torch.arange(count, device=x.device) % per_frame)
    return torch.cat(places)


def _hide_some(texts: list[str], rate: float, generator: torch.Generator) -> list[str]:
    """Each text replaced by the empty one with probability `rate`; student and teacher share it."""
    if rate == 0:
        return texts
    if generator.device.type != "cpu":  # words are the host's, which must not wait for the device
        generator = torch.Generator().manual_seed(generator.initial_seed())
    hidden = torch.rand(len(texts), generator=generator) < rate
    return ["" if hide else text for text, hide in zip(texts, hidden.tolist(), strict=True)]


def _augment(
    clean: dict[str, Tensor], frame_noise: float, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """A clean first frame lightly noised, and its level [B] (the paper's appendix E)."""
    if frame_noise == 0 or "first_frame" not in clean:
        return clean, None
    x = clean["first_frame"]
    t = frame_noise * torch.rand(len(x), generator=generator, device=x.device)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    noised = path.interpolate(x, noise, t[:, None, None])
    return {**clean, "first_frame": noised}, {"first_frame": t}
