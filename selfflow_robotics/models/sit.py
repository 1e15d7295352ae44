"""SiT (arXiv 2401.08740) with a separate timestep per token.

Clean tokens can form a context: they are encoded once without attending to noised tokens, and any
number of noise draws (in training) or solver steps (in sampling) reuse their keys and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from selfflow_robotics.errors import UserError
from selfflow_robotics.models.backbone import Tokens
from selfflow_robotics.models.embeddings import TimestepEmbedder, check_convention
from selfflow_robotics.models.layers import (
    Block,
    KeyValue,
    at_own_timestep,
    check_size,
    xavier,
    zero,
)
from selfflow_robotics.models.modulation import Modulation
from selfflow_robotics.timesteps import Timesteps


@dataclass(frozen=True)
class SiTConfig:
    """Size of the transformer. The full size (675 M, SiT-XL) is width 1152, depth 28, heads 16.

    Timesteps t are embedded as timestep_scale * (t - timestep_origin). The released weights count
    from noise without scaling: 1 and 1.
    """

    kind: ClassVar[str] = "sit"
    width: int = 192
    depth: int = 4
    heads: int = 3
    mlp_ratio: float = 4.0
    timestep_scale: float = 1000.0
    timestep_origin: float = 0.0

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads) < 1 or self.width % self.heads:
            raise UserError(
                "model width, depth and heads must be positive and width divisible by heads, got "
                f"{self.width}, {self.depth}, {self.heads}"
            )
        check_size(self.width, self.depth, self.mlp_ratio)
        if self.width % 4:  # two sine-cosine pairs per position axis
            raise UserError(f"model width must be divisible by 4, got {self.width}")
        check_convention(self.timestep_scale, self.timestep_origin)


class SiT(nn.Module):
    """The blocks of a SiT; see `models.backbone.Backbone`."""

    positions: Literal["absolute", "rotary"] = "absolute"

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        self.config = config
        self.t_embedder = TimestepEmbedder(
            config.width, scale=config.timestep_scale, origin=config.timestep_origin
        )
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self._initialize()

    @property
    def width(self) -> int:
        return self.config.width

    @property
    def depth(self) -> int:
        return self.config.depth

    def _initialize(self) -> None:
        """DiT's initialization: xavier for linear layers, small timestep MLP, adaLN-Zero."""
        xavier(self.blocks)
        self.t_embedder.initialize()
        for block in self.blocks:
            assert isinstance(block, Block)
            zero(block.adaLN_modulation)

    def modulation(self, timesteps: Timesteps, condition: Tensor | None = None) -> Modulation:
        return self.t_embedder.modulation(timesteps, condition)

    def modulation_rows(self, mod: Modulation) -> list[Tensor]:
        """[G, V, 6 D] for each block."""
        return [block.adaLN_modulation(mod.cond) for block in self.blocks]  # pyright: ignore

    def encode_context(
        self, tokens: Tokens, condition: Tensor | None = None, depth: int | None = None
    ) -> list[KeyValue]:
        mod, hidden = self.modulation(tokens.timesteps, condition), tokens.hidden
        *blocks, last = self.blocks[: self.depth if depth is None else depth]
        visible = None if tokens.visible is None else tokens.visible[None, None]
        kept: list[KeyValue] = []
        for block in blocks:
            hidden, own = block(hidden, mod, None, visible)
            kept.append(own)
        assert isinstance(last, Block)
        kept.append(last.key_value(hidden, mod))
        return kept

    def forward(
        self,
        tokens: Tokens,
        kept: list[KeyValue] | None = None,
        layers: Sequence[int] = (),
        stop: bool = False,
        condition: Tensor | None = None,
        separate_attention: bool = False,
        table: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Modulation, dict[int, Tensor]]:
        mod, hidden = self.modulation(tokens.timesteps, condition), tokens.hidden
        visible = None if tokens.visible is None else tokens.visible[None, None]
        if separate_attention:
            separate = at_own_timestep(mod.index, tokens.is_context)
            if visible is not None:  # the kept context comes first
                separate = visible & F.pad(
                    separate, (visible.shape[-1] - separate.shape[-1], 0), value=True
                )
            visible = separate
        features: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            hidden, _ = block(
                hidden,
                mod,
                None if kept is None else kept[i],
                visible,
                None if table is None else table[i],
            )
            if i + 1 in layers:
                features[i + 1] = hidden
                if stop and i + 1 == max(layers):
                    break
        return hidden, mod, features
