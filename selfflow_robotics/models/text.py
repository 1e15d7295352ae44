"""Text input of a network: a small trainable byte encoder, or a projection of embeddings from a
frozen text encoder."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from selfflow_robotics.errors import UserError

MOST_TEXT_BYTES = 1024
PAD = 256  # one id after the 256 bytes


@dataclass(frozen=True)
class TextConfig:
    """How a network reads text: "bytes" needs no weights or vocabulary, "embeddings" projects those
    of a frozen encoder."""

    kind: Literal["bytes", "embeddings"] = "bytes"
    tokens: int = 2  # bytes: tokens per text
    most_bytes: int = 127  # bytes: length of the longest text
    channels: int = 0  # embeddings: channels per token

    def __post_init__(self) -> None:
        if min(self.tokens, self.channels if self.kind == "embeddings" else 1) < 1:
            raise UserError(
                f"text tokens and embedding channels must be at least 1, got {self.tokens} and "
                f"{self.channels}"
            )
        if not 1 <= self.most_bytes <= MOST_TEXT_BYTES:
            raise UserError(
                f"model.text_bytes must be from 1 to {MOST_TEXT_BYTES}, got {self.most_bytes}"
            )

    def build(self, width: int, heads: int) -> nn.Module:
        """The module that turns words into text tokens [B, M, D]."""
        if self.kind == "embeddings":
            return nn.Linear(self.channels, width)
        return ByteTextEncoder(width, heads, self.tokens, self.most_bytes)


def check_texts(texts: Iterable[str], most_bytes: int) -> None:
    """Raise UserError for texts of more than `most_bytes` bytes instead of truncating them. The
    message names the longest one, and two that would become equal, if any."""
    raw = {text: _encoded(text) for text in texts}
    long = [text for text, data in raw.items() if len(data) > most_bytes]
    if not long:
        return
    starts: dict[bytes, str] = {}
    alike = ""
    for text, data in raw.items():
        other = starts.setdefault(data[:most_bytes], text)
        if other != text:
            alike = f"; truncated, '{other}' and '{text}' would be the same"
            break
    longest = max(long, key=lambda text: len(raw[text]))
    raise UserError(
        f"the network reads texts of at most {most_bytes} bytes, but {len(long)} of "
        f"{len(raw)} are longer{alike}; '{longest}' needs a network trained with "
        f"model.text_bytes={len(raw[longest])}"
    )


def text_bytes(
    texts: list[str], most_bytes: int = 127, device: torch.device | str = "cpu"
) -> Tensor:
    """UTF-8 bytes of each text, padded to the longest of them: int64 [B, 1 + length].

    The first position is always PAD, so that the empty text (the null condition of classifier-free
    guidance) has a token to attend to. Raises UserError if a text is too long.
    """
    check_texts(texts, most_bytes)
    coded = [list(_encoded(text)) for text in texts]
    ids = torch.full((len(texts), 1 + max(map(len, coded), default=0)), PAD, dtype=torch.long)
    for row, raw in zip(ids, coded, strict=True):
        row[1 : 1 + len(raw)] = torch.tensor(raw, dtype=torch.long)
    return ids.to(device)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the text {text!r} is not valid Unicode; retype it") from error


class ByteTextEncoder(nn.Module):
    """Byte encoder: one transformer layer, then pooling with learned queries."""

    def __init__(self, width: int, heads: int, num_tokens: int, most_bytes: int = 127) -> None:
        super().__init__()
        self.embed = nn.Embedding(PAD + 1, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1 + most_bytes, width))
        self.layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.queries = nn.Parameter(0.02 * torch.randn(num_tokens, width))
        self.pool = nn.MultiheadAttention(width, heads, batch_first=True)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Bytes [B, 1 + length], of at most most_bytes -> text tokens [B, num_tokens, D]."""
        padding = ids == PAD
        padding[:, 0] = False
        hidden = self.layer(
            self.embed(ids) + self.positions[: ids.shape[1]], src_key_padding_mask=padding
        )
        queries = self.queries.expand(len(ids), -1, -1)
        return self.pool(queries, hidden, hidden, key_padding_mask=padding, need_weights=False)[0]
