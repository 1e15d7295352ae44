"""The way of words into a network: a small trainable encoder of bytes, or a projection of what a
frozen text encoder has made of them."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from selfflow_robotics.errors import UserError

MAX_BYTES = 64
PAD = 256  # one id after the 256 bytes


@dataclass(frozen=True)
class TextConfig:
    """How a network reads words: "bytes" needs no weights and no vocabulary, "embeddings" projects
    those of a frozen encoder."""

    kind: Literal["bytes", "embeddings"] = "bytes"
    tokens: int = 2  # bytes: that a text becomes
    channels: int = 0  # embeddings: of each token

    def __post_init__(self) -> None:
        if min(self.tokens, self.channels if self.kind == "embeddings" else 1) < 1:
            raise UserError(
                "text needs at least one token and embeddings at least one channel, got "
                f"{self.tokens} and {self.channels}"
            )

    def build(self, width: int, heads: int) -> nn.Module:
        """The part of a network that turns words into text tokens [B, M, D]."""
        if self.kind == "embeddings":
            return nn.Linear(self.channels, width)
        return ByteTextEncoder(width, heads, self.tokens)


def text_bytes(texts: list[str], device: torch.device | str = "cpu") -> Tensor:
    """UTF-8 bytes of each text, cut and padded to MAX_BYTES: int64 [B, MAX_BYTES].

    The first place always holds PAD, so that the empty text (the null condition of classifier-free
    guidance) still has one place to look at.
    """
    ids = torch.full((len(texts), MAX_BYTES), PAD, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        raw = text.encode()[: MAX_BYTES - 1]
        row[1 : 1 + len(raw)] = torch.tensor(list(raw), dtype=torch.long)
    return ids.to(device)


class ByteTextEncoder(nn.Module):
    """Bytes to a few tokens: one transformer layer, then learned queries that pool it."""

    def __init__(self, width: int, heads: int, num_tokens: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(PAD + 1, width)
        self.positions = nn.Parameter(0.02 * torch.randn(MAX_BYTES, width))
        self.layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.queries = nn.Parameter(0.02 * torch.randn(num_tokens, width))
        self.pool = nn.MultiheadAttention(width, heads, batch_first=True)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Bytes [B, MAX_BYTES] -> text tokens [B, num_tokens, D]."""
        padding = ids == PAD
        padding[:, 0] = False
        hidden = self.layer(self.embed(ids) + self.positions, src_key_padding_mask=padding)
        queries = self.queries.expand(len(ids), -1, -1)
        return self.pool(queries, hidden, hidden, key_padding_mask=padding, need_weights=False)[0]
