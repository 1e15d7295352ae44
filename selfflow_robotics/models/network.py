"""The network: one backbone, an adapter for each kind of token, and conditioning.

Each slot of a sample (`batch.Slot`) is either clean, as part of the context, or noised, to be
denoised. The role decides which (`objective.roles`), so one network can generate images, predict
videos and act. A class label is added to the timestep embedding; words are clean tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from selfflow_robotics.batch import Slot, Words
from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.models.adapters import Adapter
from selfflow_robotics.models.backbone import WORDS, Backbone, Kept, Tokens
from selfflow_robotics.models.layers import FinalLayer, Projector
from selfflow_robotics.models.lora import LoraConfig, add_updates, merge_updates
from selfflow_robotics.models.modulation import Modulation
from selfflow_robotics.models.network_config import BACKBONES, NetworkConfig
from selfflow_robotics.models.text import text_bytes
from selfflow_robotics.timesteps import Timesteps

Attention = Literal["prefix", "joint", "causal"]


@dataclass(frozen=True)
class Context:
    """The encoded clean part of a sample."""

    kept: Kept | None  # attention = prefix or causal: the backbone's keys and values
    tokens: Tokens | None  # attention = joint: the embedded clean tokens
    base: dict[str, Tensor]  # clean tokens [B, N, C] to which predicted changes are added
    condition: Tensor | None  # [1 or B, D], added to every timestep
    order: Tensor | None = None  # attention = causal: int64 [M], see `Network._order`


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
        # Last, so that the initial weights of everything else do not depend on it.
        self.auxiliary = nn.ModuleDict()
        if config.auxiliary_layer is not None:
            for name, adapter in config.adapters.items():
                self.auxiliary[name] = FinalLayer(width, adapter.channels)
        if config.lora is not None:
            add_updates(self.get_submodule("backbone"), config.lora)

    def freeze_backbone(self) -> None:
        """Train only adapters, heads and text encoder."""
        self.get_submodule("backbone").requires_grad_(False)

    def add_lora(self, lora: LoraConfig) -> None:
        """Freeze the backbone and add low-rank updates. Raises UserError as `add_updates`."""
        add_updates(self.get_submodule("backbone"), lora)
        self.config = replace(self.config, lora=lora)

    def merge_lora(self) -> None:
        """Add low-rank updates, if any, to the backbone's weights."""
        merge_updates(self.get_submodule("backbone"))
        self.config = replace(self.config, lora=None)

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
                reused; "joint": they also see the noised tokens and are recomputed with them;
                "causal": as "prefix", and no token sees a later frame or the actions after it.
            depth: number of blocks that will be needed, for "prefix"; None: all.
            base: tokens, without noise augmentation, of slots that others are a change of.

        Raises UserError for a slot, words, labels or attention that the network does not support.
        """
        if attention not in get_args(Attention):
            raise unknown("attention", attention, get_args(Attention))
        if attention == "causal" and self.config.backbone.kind != "sit":
            raise UserError("attention=causal needs model.backbone=sit")
        condition = self.condition(labels)
        bases = {
            slot: (base or {}).get(slot, clean[slot].tokens)
            for slot in set(self.config.changes.values()) & set(clean)
        }
        parts = [self._text_tokens(words)] if words is not None else []
        for slot, x in clean.items():
            level = 0.0 if levels is None else levels.get(slot, 0.0)
            parts.append(self.embed({slot: x}, Timesteps.constant(level, x.tokens), clean=True))
        num_words = parts[0].hidden.shape[1] if words is not None else 0
        order = self._order(clean, num_words) if attention == "causal" else None
        if not parts:
            return Context(None, None, bases, condition, order)
        tokens = Tokens.join(parts)
        if levels is None:  # everything is at t = 0: one distinct timestep
            tokens = replace(tokens, timesteps=Timesteps.constant(0.0, tokens.hidden))
        if attention == "joint":
            tokens = replace(tokens, context=tokens.hidden.shape[1])
            return Context(None, tokens, bases, condition)
        if order is not None:
            tokens = replace(tokens, visible=order[:, None] >= order)
        kept = self.backbone.encode_context(tokens, condition, depth)
        return Context(kept, None, bases, condition, order)

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
        if context.order is not None:
            own = self._order(noised)
            seen = torch.cat([context.order.to(own.device), own])
            tokens = replace(tokens, visible=own[:, None] >= seen)
        hidden, mod, features = self.backbone(
            tokens,
            context.kept,
            layers,
            stop,
            _for_groups(context.condition, groups),
            separate_attention,
            None if table is None else table.backbone,
        )
        start = hidden.shape[1] - num_noised  # of the noised tokens; before them, the context's
        features = {layer: x[:, start:] for layer, x in features.items()}
        if stop:
            return {}, features
        mod = mod._replace(index=mod.index[:, start:])

        def read(name: str, tokens: Tensor, part: Modulation) -> Tensor:
            rows = None if table is None else table.adapters[name]
            adapter: Adapter = self.adapters[name]  # pyright: ignore[reportAssignmentType]
            return adapter.read(tokens, part, rows)

        return self._read(hidden[:, start:], noised, mod, context, read), features

    def read_auxiliary(
        self, features: Tensor, noised: Mapping[str, Slot], timesteps: Timesteps, context: Context
    ) -> dict[str, Tensor]:
        """The outputs [G, N, C] of the auxiliary heads for each noised slot, of the same kind as
        those of `forward`.

        `features` [G, N, D] are of layer `config.auxiliary_layer`, the other arguments those of
        `forward`. Raises UserError for a network without auxiliary heads.
        """
        if not len(self.auxiliary):
            raise UserError("this network has no auxiliary heads; train it with objective=reworld")
        condition = _for_groups(context.condition, len(features))
        mod = self.backbone.modulation(timesteps, condition)

        def read(name: str, tokens: Tensor, part: Modulation) -> Tensor:
            return self.auxiliary[name](tokens, part)

        return self._read(features, noised, mod, context, read)

    def _read(
        self,
        hidden: Tensor,
        noised: Mapping[str, Slot],
        mod: Modulation,
        context: Context,
        read: Callable[[str, Tensor, Modulation], Tensor],
    ) -> dict[str, Tensor]:
        """Outputs of each slot, by `read(adapter, tokens, modulation)`."""
        outputs, start = {}, 0
        for slot, x in noised.items():
            part = slice(start, start := start + x.tokens.shape[1])
            own = mod._replace(index=mod.index[:, part])
            outputs[slot] = read(self.config.slots[slot], hidden[:, part], own)
            base = context.base.get(self.config.changes.get(slot, ""))
            if base is not None:
                outputs[slot] = outputs[slot] + _repeat(base, outputs[slot])
        return outputs

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

    def _order(self, slots: Mapping[str, Slot], num_words: int = 0) -> Tensor:
        """The number of the first frame that may see each token, int64 [N]: 0 for words and the
        first frame; for an action, the frame that it leads to."""
        parts, steps = [torch.zeros(num_words, dtype=torch.long)], self.config.frame_steps
        for slot, x in slots.items():
            is_frame = self.config.adapter_of(slot).grid is not None
            t = x.places[:, 0]
            parts.append(t if is_frame else (t + steps) // steps)
        return torch.cat([part.to(parts[-1].device) for part in parts])

    def _text_tokens(self, words: Words) -> Tokens:
        hidden = self.encode_words(words)
        places = torch.zeros(hidden.shape[1], 3, dtype=torch.long, device=hidden.device)
        at_zero = Timesteps.constant(0.0, hidden)
        return Tokens(hidden, places, at_zero, ((WORDS, hidden.shape[1]),))


def _for_groups(condition: Tensor | None, groups: int) -> Tensor | None:
    """A condition [1 or B, D] for the `groups` draws of the samples: [1 or G, D]."""
    if condition is None or len(condition) == 1:
        return condition
    return condition.repeat_interleave(groups // len(condition), dim=0)


def _repeat(base: Tensor, like: Tensor) -> Tensor:
    """A frame's tokens [B, N, C], repeated over the draws and frames of `like` [G, T N, C]."""
    draws, frames = len(like) // len(base), like.shape[1] // base.shape[1]
    return base.repeat_interleave(draws, dim=0).repeat(1, frames, 1)
