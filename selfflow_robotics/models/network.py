"""The network: one backbone, an adapter for each kind of token, and conditioning.

Each slot of a sample (`batch.Slot`) is either clean, as part of the context, or noised, to be
denoised. The role decides which (`objective.roles`), so one network can generate images, predict
videos and act. A class label is added to the timestep embedding; words are clean tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from selfflow_robotics.batch import Slot, Words
from selfflow_robotics.errors import UserError, check_least, unknown
from selfflow_robotics.models.adapters import Adapter, AdapterConfig
from selfflow_robotics.models.backbone import WORDS, Backbone, Kept, Tokens
from selfflow_robotics.models.flux import Flux, FluxConfig
from selfflow_robotics.models.layers import Projector
from selfflow_robotics.models.sit import SiT, SiTConfig
from selfflow_robotics.models.text import TextConfig, text_bytes
from selfflow_robotics.timesteps import Timesteps

BackboneConfig = SiTConfig | FluxConfig
BACKBONES = {SiTConfig.kind: (SiTConfig, SiT), FluxConfig.kind: (FluxConfig, Flux)}

MOST_TOKENS = 2**14  # per frame
MAX_POSITIONS = 1 << 30  # entries of a position table; larger ones would fill the memory

Attention = Literal["prefix", "joint"]


@dataclass(frozen=True)
class NetworkConfig:
    """Everything needed to build a network; stored in every checkpoint."""

    backbone: BackboneConfig
    adapters: dict[str, AdapterConfig]
    slots: dict[str, str]  # slot -> adapter
    prediction: dict[str, Literal["velocity", "data"]]  # of each slot (`flow.path`)
    # {slot: base}: if the base is clean, each frame of the slot is predicted as a change of it.
    changes: dict[str, str] = field(default_factory=dict)
    text: TextConfig | None = None
    num_classes: int | None = None  # None: no labels; else label num_classes is the null label
    # Output channels of the training-only head: those of a frozen encoder; None: the width.
    feature_channels: int | None = None

    def __post_init__(self) -> None:
        for name, adapter in self.adapters.items():
            height, width = adapter.grid or (1, 1)
            if height * width > MOST_TOKENS:
                raise UserError(
                    f"{name} are limited to {MOST_TOKENS} tokens each, got {height} x {width}"
                )
            if max(height * width, adapter.steps) * self.backbone.width > MAX_POSITIONS:
                raise UserError(
                    f"the {name} have {height} x {width} tokens and {adapter.steps} steps, too "
                    f"many for a network of width {self.backbone.width}"
                )
        for adapter in self.slots.values():
            if adapter not in self.adapters:
                raise unknown("adapter", adapter, self.adapters)
        if set(self.prediction) != set(self.slots):
            raise UserError(f"every slot needs a prediction: {sorted(self.slots)}")
        if isinstance(self.backbone, FluxConfig):
            for stream in self.backbone.conditioning:
                if stream not in (streams := (WORDS, *self.slots)):
                    raise unknown("stream in model.flux.conditioning", stream, streams)
        check_least(self, 0, "num_classes")
        check_least(self, 1, "feature_channels")

    def to_json(self) -> dict[str, Any]:
        """A JSON-compatible dict, for `from_json`."""
        return {**asdict(self), "backbone": {"kind": self.backbone.kind, **asdict(self.backbone)}}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "NetworkConfig":
        """The inverse of `to_json`. Raises KeyError, TypeError or UserError for invalid records."""
        _check_numbers(record)
        fields = dict(record)
        backbone = dict(fields["backbone"])
        kind = backbone.pop("kind")
        if kind not in BACKBONES:
            raise unknown("backbone", kind, BACKBONES)
        fields["backbone"] = BACKBONES[kind][0](**backbone)
        fields["adapters"] = {
            name: AdapterConfig(**{**adapter, "grid": adapter["grid"] and tuple(adapter["grid"])})
            for name, adapter in fields["adapters"].items()
        }
        fields["text"] = fields["text"] and TextConfig(**fields["text"])
        return cls(**fields)

    @property
    def null_label(self) -> int:
        """The label for "no class", used for the unconditional half of guidance."""
        if self.num_classes is None:
            raise UserError("this network has no classes")
        return self.num_classes

    def adapter_of(self, slot: str) -> AdapterConfig:
        """The adapter of a slot. Raises UserError for an unknown slot."""
        if slot not in self.slots:
            raise unknown("slot of this network", slot, self.slots)
        return self.adapters[self.slots[slot]]


@dataclass(frozen=True)
class Context:
    """The encoded clean part of a sample."""

    kept: Kept | None  # attention = prefix: the backbone's keys and values
    tokens: Tokens | None  # attention = joint: the embedded clean tokens
    base: dict[str, Tensor]  # clean tokens [B, N, C] to which predicted changes are added
    condition: Tensor | None  # [1 or B, D], added to every timestep


class ModulationTable(NamedTuple):
    """Precomputed outputs of all modulation layers for the same timesteps."""

    backbone: list[Tensor]  # [G, V, ...] for each layer
    adapters: dict[str, Tensor]  # [G, V, 2 D]

    def at(self, column: int) -> "ModulationTable":
        """The rows of one of the timesteps."""
        part = slice(column, column + 1)
        return ModulationTable(
            [rows[:, part] for rows in self.backbone],
            {name: rows[:, part] for name, rows in self.adapters.items()},
        )

    def expand(self, groups: int) -> "ModulationTable":
        """The same rows for each of `groups` samples, if there is one row of them."""
        return ModulationTable(
            [rows.expand(groups, *rows.shape[1:]) for rows in self.backbone],
            {name: rows.expand(groups, *rows.shape[1:]) for name, rows in self.adapters.items()},
        )


class Network(nn.Module):
    """A backbone with adapters, conditioned on words and labels."""

    backbone: Backbone

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = BACKBONES[config.backbone.kind][1](config.backbone)
        width, absolute = self.backbone.width, self.backbone.positions == "absolute"
        self.adapters = nn.ModuleDict(
            {name: Adapter(adapter, width, absolute) for name, adapter in config.adapters.items()}
        )
        self.text = None if config.text is None else config.text.build(width, config.backbone.heads)
        self.label_table = None
        if config.num_classes is not None:
            self.label_table = nn.Embedding(config.num_classes + 1, width)
            nn.init.normal_(self.label_table.weight, std=0.02)
        self.projector = Projector(width, config.feature_channels)

    @property
    def prediction(self) -> dict[str, Literal["velocity", "data"]]:
        """What the output of each slot represents (`flow.path.Prediction`)."""
        return self.config.prediction

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.projector.linear1.weight.dtype

    def adapter(self, slot: str) -> Adapter:
        """The adapter of a slot. Raises UserError for an unknown slot."""
        self.config.adapter_of(slot)
        return self.adapters[self.config.slots[slot]]  # pyright: ignore[reportReturnType]

    def embed(self, slots: Mapping[str, Slot], timesteps: Timesteps, clean: bool) -> Tokens:
        """Embed the tokens [G, N, C] of all slots as one sequence.

        Raises UserError for slots or tokens that do not fit the network.
        """
        for slot, x in slots.items():
            self.config.adapter_of(slot).check(slot, x)
        hidden = [self.adapter(s).embed(x, clean) for s, x in slots.items()]
        return Tokens(
            torch.cat(hidden, dim=1),
            torch.cat([x.places for x in slots.values()]),
            timesteps,
            tuple((slot, x.tokens.shape[1]) for slot, x in slots.items()),
        )

    def encode_words(self, words: Words) -> Tensor:
        """Text tokens [B, M, D]; equal texts are encoded once.

        Raises UserError if a text is too long for the network.
        """
        if self.text is None or self.config.text is None:
            raise UserError("this network reads no words")
        kind = "embeddings" if isinstance(words, Tensor) else "bytes"
        if kind != self.config.text.kind:
            raise UserError(f"this network reads text as {self.config.text.kind}, not as {kind}")
        if isinstance(words, Tensor):
            return self.text(words)
        unique = sorted(set(words))
        device = self.projector.linear1.weight.device
        tokens = self.text(text_bytes(unique, self.config.text.most_bytes, device))
        rows = torch.tensor([unique.index(text) for text in words], device=tokens.device)
        # Its backward pass is deterministic, unlike that of advanced indexing.
        return tokens.index_select(0, rows)

    def condition(self, labels: Tensor | None) -> Tensor | None:
        """The label embedding [1 or B, D] that is added to every timestep embedding; `labels` int64
        [B], None: the null label."""
        if self.label_table is None:
            if labels is not None:
                raise UserError("this network has no classes, but was given labels")
            return None
        return self.label_table.weight[-1:] if labels is None else self.label_table(labels)

    def encode_context(
        self,
        clean: Mapping[str, Slot],
        words: Words | None = None,
        levels: Mapping[str, Tensor] | None = None,
        labels: Tensor | None = None,
        attention: Attention = "prefix",
        depth: int | None = None,
        base: Mapping[str, Tensor] | None = None,
    ) -> Context:
        """Encode the clean part of a sample.

        Args:
            clean: the clean slots, [B, N, C] each.
            words: B texts or their embeddings; None: no text.
            levels: noise level [B] of slots with noise augmentation (already applied to their
                tokens); 0 for all others.
            labels: int64 [B]; None: the null label, if the network has labels.
            attention: "prefix": clean tokens only see each other, so their keys and values can be
                reused; "joint": they also see the noised tokens and are recomputed with them.
            depth: number of blocks that will be needed, for "prefix"; None: all.
            base: tokens, without noise augmentation, of slots that others are a change of.

        Raises UserError for a slot, words or labels that the network does not support.
        """
        if attention not in get_args(Attention):
            raise unknown("attention", attention, get_args(Attention))
        condition = self.condition(labels)
        bases = {
            slot: (base or {}).get(slot, clean[slot].tokens)
            for slot in set(self.config.changes.values()) & set(clean)
        }
        parts = [self._text_tokens(words)] if words is not None else []
        for slot, x in clean.items():
            level = 0.0 if levels is None else levels.get(slot, 0.0)
            parts.append(self.embed({slot: x}, Timesteps.constant(level, x.tokens), clean=True))
        if not parts:
            return Context(None, None, bases, condition)
        tokens = Tokens.join(parts)
        if levels is None:  # everything is at t = 0: one distinct timestep
            tokens = replace(tokens, timesteps=Timesteps.constant(0.0, tokens.hidden))
        if attention == "joint":
            tokens = replace(tokens, context=tokens.hidden.shape[1])
            return Context(None, tokens, bases, condition)
        return Context(
            self.backbone.encode_context(tokens, condition, depth), None, bases, condition
        )

    def forward(
        self,
        noised: Mapping[str, Slot],
        timesteps: Timesteps,
        context: Context,
        layers: Sequence[int] = (),
        stop: bool = False,
        separate_attention: bool = False,
        table: ModulationTable | None = None,
    ) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
        """Denoise: the outputs [G, N, C] of each noised slot, and the noised tokens' raw features
        [G, N, D] after each block in `layers`.

        Args:
            noised: the slots x_t; G is a multiple of the context's batch B.
            timesteps: timesteps of all tokens, in the order of the slots.
            context: from `encode_context`, shared by the G / B draws of each sample.
            layers: block numbers, 1 to depth.
            stop: stop after the last of `layers`, without outputs.
            separate_attention: noised tokens see only those at their own timestep, and the context.
            table: `modulation_table` of these timesteps and condition; not with a joint context.
        """
        tokens = self.embed(noised, timesteps, clean=False)
        groups, num_noised = tokens.hidden.shape[:2]
        if context.tokens is not None:
            clean = context.tokens
            tokens = Tokens.join([clean.repeat(groups // len(clean.hidden)), tokens])
        condition = context.condition
        if condition is not None and len(condition) > 1:
            condition = condition.repeat_interleave(groups // len(condition), dim=0)
        hidden, mod, features = self.backbone(
            tokens,
            context.kept,
            layers,
            stop,
            condition,
            separate_attention,
            None if table is None else table.backbone,
        )
        start = hidden.shape[1] - num_noised
        features = {layer: x[:, start:] for layer, x in features.items()}
        if stop:
            return {}, features
        outputs = {}
        for slot, x in noised.items():
            end = start + x.tokens.shape[1]
            rows = None if table is None else table.adapters[self.config.slots[slot]]
            part = mod._replace(index=mod.index[:, start:end])
            outputs[slot] = self.adapter(slot).read(hidden[:, start:end], part, rows)
            base = context.base.get(self.config.changes.get(slot, ""))
            if base is not None:
                outputs[slot] = outputs[slot] + _repeat(base, outputs[slot])
            start = end
        return outputs, features

    def modulation_table(
        self, times: Tensor, context: Context, slots: Sequence[str]
    ) -> ModulationTable:
        """Precompute all modulation layers for times [S]: rows [1 or B, S, ...].

        The modulation weights, a third of the network's, are then read once instead of S times.
        """
        groups = 1 if context.condition is None else len(context.condition)
        timesteps = Timesteps(times.expand(groups, -1), times.new_zeros(0, dtype=torch.long))
        mod = self.backbone.modulation(timesteps, context.condition)
        used = {self.config.slots[slot] for slot in slots}
        return ModulationTable(
            self.backbone.modulation_rows(mod),
            {name: self.adapters[name].modulation_rows(mod) for name in used},  # pyright: ignore
        )

    def _text_tokens(self, words: Words) -> Tokens:
        hidden = self.encode_words(words)
        places = torch.zeros(hidden.shape[1], 3, dtype=torch.long, device=hidden.device)
        at_zero = Timesteps.constant(0.0, hidden)
        return Tokens(hidden, places, at_zero, ((WORDS, hidden.shape[1]),))


# Numbers in a record that need not be integers.
_OTHERS = {"mlp_ratio", "timestep_scale", "timestep_origin", "learn_sigma"}


def _check_numbers(record: Any, name: str = "network") -> None:
    """Raise TypeError if a record contains anything but integers, strings and `_OTHERS`."""
    if isinstance(record, dict):
        for key, value in record.items():
            _check_numbers(value, key)
    elif isinstance(record, list | tuple):
        for value in record:
            _check_numbers(value, name)
    elif name in _OTHERS:
        if type(record) not in (int, float, bool):
            raise TypeError(f"{name} is {record!r:.40}")
    elif record is not None and type(record) not in (int, str):
        raise TypeError(f"{name} is {record!r:.40}")


def _repeat(base: Tensor, like: Tensor) -> Tensor:
    """A frame's tokens [B, N, C], repeated over the draws and frames of `like` [G, T N, C]."""
    draws, frames = len(like) // len(base), like.shape[1] // base.shape[1]
    return base.repeat_interleave(draws, dim=0).repeat(1, frames, 1)
