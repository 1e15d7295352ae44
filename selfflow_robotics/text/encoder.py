"""The interface of frozen text encoders, and their names.

bytes              none: the network's own small trainable encoder reads the words
wordllama          embeddings of word pieces; the weights come with the package
hf:NAME_OR_PATH    a text encoder of the transformers library (T5, CLIP, BERT, ...), by its name
                   on Hugging Face or from a folder; downloaded only on request
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from selfflow_robotics.errors import UserError

NAMES = "bytes, wordllama or hf:NAME_OR_PATH"
MOST_TOKENS = 512


@dataclass(frozen=True)
class TextEncoderConfig:
    """The encoder, and the number of tokens per text."""

    encoder: str = "bytes"
    tokens: int = 32  # per text: shorter ones are padded, longer ones refused
    download: bool = False

    def __post_init__(self) -> None:
        kind, _, rest = self.encoder.partition(":")
        if self.encoder not in ("bytes", "wordllama") and not (kind == "hf" and rest):
            raise UserError(f"unknown text encoder '{self.encoder}'; use {NAMES}")
        if not 1 <= self.tokens <= MOST_TOKENS:
            raise UserError(f"text tokens must be from 1 to {MOST_TOKENS}, got {self.tokens}")


class TextEncoder(Protocol):
    """Words in, embeddings out; no gradient."""

    @property
    def tokens(self) -> int:
        """M, tokens per text."""
        ...

    @property
    def channels(self) -> int:
        """C, channels per token."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for encoders with the same embeddings, and only for these."""
        ...

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings float32 [B, M, C], on the CPU; zeros after a text's end.

        A text's embeddings do not depend on the others. Raises UserError as `check`.
        """
        ...

    def check(self, texts: Sequence[str]) -> None:
        """Raise UserError if a text has more than M tokens."""
        ...


def check_lengths(texts: Sequence[str], lengths: Sequence[int], tokens: int, name: str) -> None:
    """Raise UserError for texts of more than `tokens` tokens, naming the longest;
    never truncate."""
    longest = max(range(len(texts)), key=lambda number: lengths[number])
    if lengths[longest] > tokens:
        over = sum(length > tokens for length in lengths)
        raise UserError(
            f"{over} of {len(texts)} texts are longer than the {tokens} tokens that {name} "
            f"reads: '{texts[longest]}' has {lengths[longest]}; shorten it, or train with more "
            "text tokens if the encoder supports them"
        )
