"""The loss on latents of labelled pictures: `self_flow_loss` for an `ImageSiT`."""

from typing import Any, Protocol

import torch
from torch import Tensor

from selfflow_robotics.objective.self_flow import (
    Encoder,
    LossTerms,
    ObjectiveConfig,
    self_flow_loss,
)

SLOT = "latents"


class LabelledNetwork(Protocol):
    """What the loss needs of a network (`models.image_sit.ImageSiT`)."""

    projector: Any

    def __call__(
        self, tokens: Tensor, timesteps: Any, labels: Tensor, *args: Any, **kw: Any
    ) -> Any: ...


def image_loss(
    model: LabelledNetwork,
    teacher: LabelledNetwork,
    tokens: Tensor,
    labels: Tensor,
    null_label: int,
    label_dropout: float,
    objective: ObjectiveConfig,
    generator: torch.Generator,
    *,
    step: int | None = None,
    encoder: Encoder | None = None,
) -> LossTerms:
    """The loss of latents as tokens [B, N, C] of the classes `labels` int64 [B].

    A share `label_dropout` of the labels becomes the null label, for guidance; they are hidden
    from the teacher too. `step` and `encoder` as in `role_loss`.
    """
    hidden = torch.rand(len(labels), generator=generator, device=labels.device) < label_dropout
    shown = torch.where(hidden, null_label, labels)
    separate = {"separate_attention": objective.separate_attention}

    def student(x_t: dict[str, Tensor], tau: Any, layers: tuple[int, ...]) -> Any:
        velocity, features = model(x_t[SLOT], tau, shown, layers, **separate)
        return {SLOT: velocity}, features

    def cleaner(x_t: dict[str, Tensor], tau: Any, layers: tuple[int, ...]) -> Any:
        return teacher(x_t[SLOT], tau, shown, layers, features_only=True, **separate)

    return self_flow_loss(
        student=student,
        teacher=cleaner,
        project=model.projector,
        noised={SLOT: tokens},
        valid={},
        prediction={SLOT: "velocity"},
        config=objective,
        generator=generator,
        gamma=None if step is None else objective.gamma_at(step),
        encoder=encoder,
    )
