"""What a frozen text encoder is to the rest of the code, and which one is meant, by name.

bytes              none: the network's own small trainable encoder reads the words
wordllama          embeddings of word pieces, whose weights come with the package
hf:NAME_OR_PATH    a text encoder of the transformers library (T5, CLIP, BERT, ...), by its name
                   on Hugging Face or from a folder; fetched only where a download is asked for
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
    """Which encoder, and how many tokens a text may have."""

    encoder: str = "bytes"
    tokens: int = 32  # of every text: shorter ones are padded, longer ones are refused
    download: bool = False

    def __post_init__(self) -> None:
        kind, _, rest = self.encoder.partition(":")
        if self.encoder not in ("bytes", "wordllama") and not (kind == "hf" and rest):
            raise UserError(f"unknown text encoder '{self.encoder}'; give {NAMES}")
        if not 1 <= self.tokens <= MOST_TOKENS:
            raise UserError(f"text tokens must be from 1 to {MOST_TOKENS}, got {self.tokens}")


class TextEncoder(Protocol):
    """Words in, embeddings out; no gradient."""

    @property
    def tokens(self) -> int:
        """M of every text."""
        ...

    @property
    def channels(self) -> int:
        """C of a token."""
        ...

    @property
    def fingerprint(self) -> str:
        """The same for encoders that make the same embeddings, and for no others."""
        ...

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings float32 [B, M, C], on the CPU; zeros after a text's end.

        A text's embeddings do not depend on the others. Raises UserError for a text of more tokens
        than M.
        """
        ...


def check_lengths(texts: Sequence[str], lengths: Sequence[int], tokens: int, name: str) -> None:
    """Raise UserError for texts of more than `tokens` tokens, naming the longest; none is cut."""
    longest = max(range(len(texts)), key=lambda number: lengths[number])
    if lengths[longest] > tokens:
        over = sum(length > tokens for length in lengths)
        raise UserError(
            f"{over} of {len(texts)} instructions are longer than the {tokens} tokens that "
            f"{name} reads: '{texts[longest]}' has {lengths[longest]}; shorten it, or train with "
            "more text tokens where the encoder can read them"
        )
