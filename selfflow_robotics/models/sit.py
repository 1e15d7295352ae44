"""The transformer: hidden tokens in, hidden tokens out, every token at its own timestep.

Scalable Interpolant Transformer (SiT, arXiv 2401.08740) blocks. Clean tokens can be given as a
context: they are encoded once, cannot see the noised tokens, and any number of noise draws (in
training) or solver steps (in sampling) look at the keys and values kept from that one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfflow_robotics.errors import UserError
from selfflow_robotics.models.embeddings import TimestepEmbedder
from selfflow_robotics.models.layers import Block, KeyValue, zero
from selfflow_robotics.models.modulation import Modulation

Timesteps = tuple[Tensor, Tensor]  # (values [G, V], index [G, N]): V distinct timesteps a sample

MOST_WIDTH, MOST_DEPTH = 2**15, 1000
MOST_TOKENS = 2**14  # of a picture
MOST_RATIO = 64  # hidden width of an MLP over the width


@dataclass(frozen=True)
class SiTConfig:
    """Size of the transformer. The full size (675 M, SiT-XL) is width 1152, depth 28, heads 16."""

    width: int = 192
    depth: int = 4
    heads: int = 3
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads) < 1 or self.width % self.heads:
            raise UserError(
                "model width, depth and heads must be positive and width divisible by heads, got "
                f"{self.width}, {self.depth}, {self.heads}"
            )
        if self.width > MOST_WIDTH or self.depth > MOST_DEPTH:
            raise UserError(
                f"model width must be at most {MOST_WIDTH} and depth at most {MOST_DEPTH}, got "
                f"{self.width} and {self.depth}"
            )
        if not 0 < self.mlp_ratio <= MOST_RATIO:
            raise UserError(f"model mlp_ratio must be in (0, {MOST_RATIO}], got {self.mlp_ratio}")


class SiT(nn.Module):
    """Blocks of a SiT between modality adapters (`models.multimodal`, `models.image_sit`)."""

    def __init__(self, config: SiTConfig, t_embedder: TimestepEmbedder | None = None) -> None:
        super().__init__()
        self.t_embedder = t_embedder or TimestepEmbedder(config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self._initialize()

    def _initialize(self) -> None:
        """DiT's initialisation: xavier for linears, small timestep MLP, adaLN-Zero."""
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in self.t_embedder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        for block in self.blocks:
            assert isinstance(block, Block)
            zero(block.adaLN_modulation)

    def modulation(self, timesteps: Timesteps, condition: Tensor | None = None) -> Modulation:
        """Conditioning of each distinct timestep; `condition` [G, D] (a label) is added to all."""
        values, index = timesteps
        cond = self.t_embedder(values)
        if condition is not None:
            cond = cond + condition.unsqueeze(1)
        return Modulation(cond, index)

    def encode_context(
        self, tokens: Tensor, timesteps: Timesteps, num_blocks: int | None = None
    ) -> list[KeyValue]:
        """Keys and values of clean tokens [B, M, D] at every block, or at the first `num_blocks`:
        all that `forward` needs where it stops there."""
        mod = self.modulation(timesteps)
        kept: list[KeyValue] = []
        *before, last = self.blocks[:num_blocks]
        for block in before:
            tokens, own = block(tokens, mod)
            kept.append(own)
        assert isinstance(last, Block)
        kept.append(last.key_value(tokens, mod))
        return kept

    def forward(
        self,
        tokens: Tensor,
        timesteps: Timesteps,
        context: list[KeyValue] | None = None,
        layers: Sequence[int] = (),
        features_only: bool = False,
        separate_attention: bool = False,
        condition: Tensor | None = None,
        table: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Modulation, dict[int, Tensor]]:
        """Hidden tokens [G, N, D] through the blocks, modulated by timestep and `condition` [G, D].

        Returns the last hidden tokens, the modulation (output layers use it too), and the raw
        features after so many blocks of `layers`. With `features_only` nothing after the last of
        these is computed: a teacher needs no more. With `separate_attention` tokens see only those
        at their own timestep, and the context. `table` has the blocks' `rows`, where known already.
        """
        mod = self.modulation(timesteps, condition)
        visible = None
        if separate_attention:
            visible = mod.index[:, None, :, None] == mod.index[:, None, None, :]
        features: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            tokens, _ = block(
                tokens,
                mod,
                None if context is None else context[i],
                visible,
                None if table is None else table[i],
            )
            if i + 1 in layers:
                features[i + 1] = tokens
                if features_only and i + 1 == max(layers):
                    break
        return tokens, mod, features


def constant_timestep(t: float | Tensor, like: Tensor) -> Timesteps:
    """One timestep for all tokens of `like` [G, N, ...]; t is a number or a tensor [G]."""
    groups, num_tokens = like.shape[:2]
    index = torch.zeros(groups, num_tokens, dtype=torch.long, device=like.device)
    if isinstance(t, Tensor):
        return t.to(like.device, torch.float32).expand(groups)[:, None], index
    # `full` does not make the host wait for the device, as copying a number there does.
    return torch.full((groups, 1), t, dtype=torch.float32, device=like.device), index
