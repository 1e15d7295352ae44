"""One network for pictures, videos, actions and words: adapters around a SiT.

Every slot of a sample has its own way in and out of the transformer, all else is shared. Which
slots are context (clean) and which are denoised is not decided here (`objective.roles`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from selfflow_robotics.autoencoders.pixel import PixelAutoencoder
from selfflow_robotics.errors import UserError
from selfflow_robotics.models.embeddings import PatchStem, sincos_positions_2d
from selfflow_robotics.models.layers import FinalLayer, KeyValue, Projector, zero
from selfflow_robotics.models.sit import MOST_TOKENS, SiT, SiTConfig, Timesteps
from selfflow_robotics.models.text import MOST_TEXT_BYTES, ByteTextEncoder, text_bytes

MOST_PLACES = 100


@dataclass(frozen=True)
class MultimodalConfig:
    """The whole network's shape; stored in every checkpoint."""

    sit: SiTConfig = field(default_factory=SiTConfig)
    image_size: tuple[int, int] = (64, 80)  # (height, width) px
    patch: int = 16  # px
    later_frames: int = 6  # most frames after the first
    action_horizon: int = 6
    action_dim: int = 7
    text_tokens: int = 2
    text_bytes: int = 127  # UTF-8 bytes of the longest instruction; RT-1's longest has 68
    # Channels that the train-only head predicts: of a frozen encoder. None: the network's width.
    feature_channels: int | None = None

    def __post_init__(self) -> None:
        if self.patch < 2 or self.patch & (self.patch - 1):
            raise UserError(f"model.patch must be a power of two from 2 on, got {self.patch}")
        # Refuses sizes that do not divide.
        tokens = PixelAutoencoder(self.image_size, self.patch).tokens_per_frame
        if tokens > MOST_TOKENS:
            raise UserError(
                f"model.image_size {self.image_size} makes {tokens} patches of {self.patch} px; at "
                f"most {MOST_TOKENS} are possible"
            )
        if self.sit.width % 4:  # two sine-cosine pairs an axis of the positions
            raise UserError(f"model.sit.width must be divisible by 4, got {self.sit.width}")
        if min(self.later_frames, self.action_horizon, self.action_dim, self.text_tokens) < 1:
            raise UserError(
                "model.later_frames, action_horizon, action_dim and text_tokens must be at least 1"
            )
        if not 1 <= self.text_bytes <= MOST_TEXT_BYTES:
            raise UserError(
                f"model.text_bytes must be from 1 to {MOST_TEXT_BYTES}, got {self.text_bytes}"
            )
        # All of them are tokens of one sequence.
        if max(self.later_frames, self.action_horizon, self.text_tokens) > MOST_PLACES:
            raise UserError(
                "model.later_frames, action_horizon and text_tokens must be at most "
                f"{MOST_PLACES}, got {self.later_frames}, {self.action_horizon}, {self.text_tokens}"
            )
        if self.feature_channels is not None and self.feature_channels < 1:
            raise UserError(
                f"model.feature_channels must be at least 1, got {self.feature_channels}"
            )


@dataclass
class Context:
    """What the clean part of a sample looks like to the noised tokens."""

    key_values: list[KeyValue] | None  # per block, [B, heads, M, D / heads]
    first_frame: Tensor | None  # its clean tokens [B, N, C], where the first frame is clean


class MultimodalSiT(nn.Module):
    """Self-Flow backbone, world model and policy in one.

    Actions are predicted as velocities, frames as data (`flow.path.Prediction`). Where the first
    frame is clean, later frames are predicted as a change of it: most of a picture stays.
    """

    grid_positions: Tensor  # [tokens of a frame, D]

    def __init__(self, config: MultimodalConfig) -> None:
        super().__init__()
        self.config = config
        self.prediction: dict[str, Literal["velocity", "data"]] = {
            "first_frame": "data",
            "later_frames": "data",
            "actions": "velocity",
        }
        self.autoencoder = PixelAutoencoder(config.image_size, config.patch)
        width = config.sit.width
        pixels = self.autoencoder.token_channels
        auto = self.autoencoder
        self.frame_in = PatchStem(auto.patch, auto.channels, width, auto.grid)
        self.action_in = nn.Linear(config.action_dim, width)
        self.text_in = ByteTextEncoder(
            width, config.sit.heads, config.text_tokens, config.text_bytes
        )
        self.register_buffer(
            "grid_positions", sincos_positions_2d(width, *self.autoencoder.grid), persistent=False
        )
        self.frame_times = nn.Parameter(0.02 * torch.randn(1 + config.later_frames, width))
        self.action_times = nn.Parameter(0.02 * torch.randn(config.action_horizon, width))
        self.sit = SiT(config.sit)
        self.frame_out = FinalLayer(width, pixels)
        self.action_out = FinalLayer(width, config.action_dim)
        self.projector = Projector(width, config.feature_channels)

    def forget_frames(self) -> None:
        """Zero the output of frames: pretraining predicts whole pictures with it, fine-tuning a
        change of the clean first frame, which starts at none."""
        zero(self.frame_out.linear)

    def embed(self, slot: str, tokens: Tensor, clean: bool) -> Tensor:
        """Tokens of a slot [G, N, C] as hidden tokens with their positions [G, N, D]."""
        if slot == "actions":
            return self.action_in(tokens) + self.action_times[: tokens.shape[1]]
        per_frame = self.autoencoder.tokens_per_frame
        start = 0 if slot == "first_frame" else 1
        times = self.frame_times[start : start + tokens.shape[1] // per_frame]
        positions = (times[:, None] + self.grid_positions).flatten(0, 1)
        return self.frame_in(tokens, whole_frames=clean) + positions

    def encode_text(self, instructions: list[str]) -> Tensor:
        """Text tokens [B, text_tokens, D]; equal instructions are encoded once.

        Raises UserError for one of more than `text_bytes` bytes.
        """
        unique = sorted(set(instructions))
        ids = text_bytes(unique, self.config.text_bytes, self.frame_times.device)
        tokens = self.text_in(ids)
        rows = [unique.index(text) for text in instructions]
        # Its backward adds in a fixed order; that of advanced indexing may not.
        return tokens.index_select(0, torch.tensor(rows, device=tokens.device))

    def encode_context(
        self,
        clean: dict[str, Tensor],
        instructions: list[str] | None,
        timesteps: dict[str, Tensor] | None = None,
        *,
        still: Tensor | None = None,
        num_blocks: int | None = None,
    ) -> Context:
        """One pass over the clean tokens of a sample.

        Args:
            clean: tokens of each clean slot [B, N, C].
            instructions: B texts, or None for a sample without words.
            timesteps: noise level [B] of slots that are conditioning with noise augmentation
                (already applied to their tokens); 0 for all others.
            still: the first frame [B, N, C] before that noise, which later frames are predicted as
                a change of; None: as in `clean`.
            num_blocks: how many blocks the noised tokens will go through; None: all.
        """
        parts, levels = [], []
        if instructions is not None:
            parts.append(self.encode_text(instructions))
            levels.append(parts[0].new_zeros(len(instructions)).float())
        for slot, tokens in clean.items():
            parts.append(self.embed(slot, tokens, clean=True))
            at_zero = torch.zeros(len(tokens), device=tokens.device)
            levels.append(at_zero if timesteps is None else timesteps.get(slot, at_zero))
        if not parts:
            return Context(None, None)
        index = torch.cat(
            [torch.full((p.shape[1],), i, device=p.device) for i, p in enumerate(parts)]
        )
        values = torch.stack(levels, dim=1)
        if timesteps is None:  # everything is at t = 0: one distinct timestep
            values, index = values[:, :1], torch.zeros_like(index)
        index = index.expand(len(values), -1)
        kept = self.sit.encode_context(torch.cat(parts, dim=1), (values, index), num_blocks)
        return Context(kept, clean.get("first_frame") if still is None else still)

    def forward(
        self,
        noised: dict[str, Tensor],
        timesteps: Timesteps,
        context: Context,
        layers: Sequence[int] = (),
        features_only: bool = False,
        separate_attention: bool = False,
    ) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
        """Outputs of every noised slot [G, N, C], and features [G, N, D] after `layers` blocks.

        `timesteps` are `(values [G, V], index [G, N])` over the slots' tokens in their order; G is
        a multiple of the context's batch. `features_only` stops after the last of `layers`, without
        outputs. `separate_attention` as in `SiT`.
        """
        tokens = torch.cat([self.embed(slot, x, clean=False) for slot, x in noised.items()], dim=1)
        hidden, mod, features = self.sit(
            tokens, timesteps, context.key_values, layers, features_only, separate_attention
        )
        if features_only:
            return {}, features
        outputs, start = {}, 0
        for slot, x in noised.items():
            stop = start + x.shape[1]
            final = self.action_out if slot == "actions" else self.frame_out
            part = mod._replace(index=mod.index[:, start:stop])
            outputs[slot] = final(hidden[:, start:stop], part)
            start = stop
        if "later_frames" in outputs and context.first_frame is not None:
            outputs["later_frames"] = outputs["later_frames"] + self._still(noised, context)
        return outputs, features

    def _still(self, noised: dict[str, Tensor], context: Context) -> Tensor:
        """The clean first frame, repeated over the later frames and noise draws."""
        assert context.first_frame is not None
        x = noised["later_frames"]
        draws = len(x) // len(context.first_frame)
        frames = x.shape[1] // context.first_frame.shape[1]
        return context.first_frame.repeat_interleave(draws, dim=0).repeat(1, frames, 1)
