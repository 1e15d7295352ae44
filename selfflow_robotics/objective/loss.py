"""The loss of a batch for one role: which slots are clean and which are denoised.

If clean tokens do not attend to noised ones, several noise draws of a sample share one encoding of
its clean tokens: the expensive part (encoding the image) runs once, the cheap part (denoising six
actions) at many noise levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from selfflow_robotics.batch import Batch, Slot, Words, finite_tokens
from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.flow import path
from selfflow_robotics.objective.roles import Role, arrange, denoises_frames
from selfflow_robotics.objective.self_flow import (
    Denoiser,
    Encoder,
    LossTerms,
    ObjectiveConfig,
    self_flow_loss,
)
from selfflow_robotics.rng import draw, on_host
from selfflow_robotics.timesteps import Timesteps


@dataclass(frozen=True)
class ConditioningConfig:
    """How the clean part of a sample conditions training."""

    # prefix: clean tokens only see each other, and are encoded once for all draws and solver steps;
    # joint: all tokens see each other, as in the paper; causal: as prefix, but no token sees a
    # later frame, or the actions after it.
    attention: Literal["prefix", "joint", "causal"] = "prefix"
    draws: int = 8  # noise draws of an action chunk per encoding of the image
    frame_draws: int = 1  # the same for roles that denoise frames, which cost twenty times as much
    frame_noise: float = 0.0  # the clean frame's own noise level ~ U(0, this); 0.2 in the paper
    text_dropout: float = 0.1  # probability of dropping instruction and label, for guidance

    def __post_init__(self) -> None:
        choices = ("prefix", "joint", "causal")
        if self.attention not in choices:
            raise unknown("conditioning.attention", self.attention, choices)
        if self.draws < 1 or self.frame_draws < 1:
            raise UserError("conditioning.draws and conditioning.frame_draws must be at least 1")
        if not (0 <= self.frame_noise < 1 and 0 <= self.text_dropout <= 1):
            raise UserError(
                "conditioning.frame_noise must be in [0, 1) and text_dropout in [0, 1], got "
                f"{self.frame_noise} and {self.text_dropout}"
            )


def check_attention(config: ConditioningConfig, backbone: str) -> None:
    """Raise UserError if the backbone does not have this attention."""
    if config.attention == "causal" and backbone != "sit":
        raise UserError(
            f"conditioning.attention=causal needs model.backbone=sit, not {backbone}; choose joint"
        )


class ContextNetwork(Protocol):
    """The part of the network's interface that the loss needs (`models.network.Network`)."""

    config: Any
    projector: Any

    @property
    def prediction(self) -> Mapping[str, path.Prediction]: ...

    def encode_context(self, clean: Mapping[str, Slot], *args: Any, **kw: Any) -> Any: ...

    def __call__(self, noised: Any, timesteps: Any, context: Any, *args: Any, **kw: Any) -> Any: ...

    def read_auxiliary(
        self, features: Tensor, noised: Any, timesteps: Any, context: Any
    ) -> dict[str, Tensor]: ...


def loss(
    network: ContextNetwork,
    teacher: ContextNetwork,
    batch: Batch,
    role: Role,
    objective: ObjectiveConfig,
    conditioning: ConditioningConfig,
    generator: torch.Generator,
    *,
    weights: Mapping[str, float] | None = None,
    step: int | None = None,
    encoder: Encoder | None = None,
) -> LossTerms:
    """The loss of a batch; G = B x draws.

    Student and teacher see the same noise, and the same dropped words and labels.

    Args:
        network, teacher: the student and its moving average, used only if the objective has a
            teacher.
        weights: weight of each slot in the flow loss; 1 if not given.
        step: for objectives that warm up; None: no warm-up.
        encoder: for objectives with a frozen encoder.
    """
    clean, to_denoise = arrange(role, batch.slots)
    clean = {slot: x.with_tokens(finite_tokens(x.tokens, x.valid)) for slot, x in clean.items()}
    draws = conditioning.frame_draws if denoises_frames(role) else conditioning.draws
    to_denoise = {slot: x.repeat(draws) for slot, x in to_denoise.items()}
    labels = batch.labels
    if labels is not None:
        hidden = draw(torch.rand, labels.shape, generator)
        null = network.config.null_label
        labels = torch.where(hidden < conditioning.text_dropout, null, labels)
    words = _hide_some(batch, conditioning.text_dropout, generator)
    shown, levels = _augment(clean, conditioning.frame_noise, generator)
    condition = {
        "words": words,
        "levels": levels,
        "labels": labels,
        "attention": conditioning.attention,
        "base": {slot: x.tokens for slot, x in clean.items()},
    }
    separate = {"separate_attention": objective.separate_attention}
    ask_teacher = None
    if objective.has_teacher:
        with torch.no_grad():
            seen = teacher.encode_context(shown, **condition, depth=objective.teacher_layer)
        ask_teacher = ask(teacher, to_denoise, seen, stop=True, **separate)
    context = network.encode_context(shown, **condition)
    return self_flow_loss(
        student=ask(network, to_denoise, context, **separate),
        teacher=ask_teacher,
        project=network.projector,
        data={slot: x.tokens for slot, x in to_denoise.items()},
        valid={slot: x.valid for slot, x in to_denoise.items() if x.valid is not None},
        prediction=network.prediction,
        config=objective,
        generator=generator,
        gamma=None if step is None else objective.gamma_at(step),
        weights=weights,
        encoder=encoder,
        auxiliary=lambda features, tau: network.read_auxiliary(features, to_denoise, tau, context),
        places=_places(to_denoise, batch) if objective.mask_shape == "tube" else None,
    )


def ask(
    network: ContextNetwork, to_denoise: Mapping[str, Slot], context: Any, **settings: Any
) -> Denoiser:
    """The network as a `Denoiser` for `self_flow_loss`, with its slots and context filled in."""

    def asked(x_t: dict[str, Tensor], tau: Timesteps, layers: tuple[int, ...]) -> Any:
        slots = {slot: to_denoise[slot].with_tokens(x) for slot, x in x_t.items()}
        return network(slots, tau, context, layers, **settings)

    return asked


def _places(to_denoise: Mapping[str, Slot], batch: Batch) -> Tensor:
    """An index [N] per noised token, shared by tokens at the same place in different frames."""
    per_frame = batch.slots["first_frame"].tokens.shape[1]
    places, beyond = [], 0 if set(to_denoise) == {"actions"} else per_frame
    for slot, x in to_denoise.items():
        count = x.tokens.shape[1]
        numbers = torch.arange(count, device=x.tokens.device)
        if slot == "actions":
            places.append(numbers + beyond)
            beyond += count
        else:
            places.append(numbers % per_frame)
    return torch.cat(places)


def _hide_some(batch: Batch, rate: float, generator: torch.Generator) -> Words | None:
    """Each text dropped with probability `rate`."""
    words = batch.words
    if words is None or rate == 0:
        return words
    if isinstance(words, Tensor):
        drawn = draw(torch.rand, (len(words), 1, 1), generator)
        none = torch.zeros_like(words[0]) if batch.no_words is None else batch.no_words
        return torch.where(drawn < rate, none, words)
    # Texts are on the host, which must not wait for the device.
    hidden = draw(torch.rand, (len(words),), on_host(generator)) < rate
    return ["" if hide else text for text, hide in zip(words, hidden.tolist(), strict=True)]


def _augment(
    clean: dict[str, Slot], frame_noise: float, generator: torch.Generator
) -> tuple[dict[str, Slot], dict[str, Tensor] | None]:
    """Noise augmentation of a clean first frame, and its noise level [B] (the paper's appendix
    E)."""
    if frame_noise == 0 or "first_frame" not in clean:
        return clean, None
    slot = clean["first_frame"]
    t = frame_noise * draw(torch.rand, (len(slot.tokens),), generator)

    def noised(x: Tensor) -> Tensor:
        noise = draw(torch.randn, x.shape, generator)
        return path.interpolate(x, noise, t[:, None, None])

    view = None if slot.view is None else noised(slot.view)
    slot = replace(slot, tokens=noised(slot.tokens), view=view)
    return {**clean, "first_frame": slot}, {"first_frame": t}
