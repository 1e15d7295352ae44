"""wordllama's embeddings of word pieces (32 000 x 256); the weights come with the package.

They do not depend on context, and the network does not see word positions. So a fixed sine-cosine
position code is added; otherwise "the cup near the can" would equal "the can near the cup".
"""

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.text.encoder import check_lengths


class WordLlamaEncoder:
    """As `text.encoder.TextEncoder`."""

    def __init__(self, table: Tensor, tokenizer: Any, tokens: int) -> None:
        """table: [V, C]; tokenizer: of the library tokenizers."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # Normalized to unit size, so that position codes of unit size are visible.
        self._table = table / table.square().mean().sqrt()
        self._tokenizer, self.tokens = tokenizer, tokens
        self.channels = table.shape[1]
        self._places = place_codes(tokens, self.channels)
        digest = hashlib.sha256(f"wordllama {tokens} {tuple(table.shape)} ".encode())
        digest.update(table.numpy().tobytes())
        digest.update(tokenizer.to_str().encode())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def load(cls, tokens: int) -> "WordLlamaEncoder":
        """Raises UserError if the package or its weights are missing."""
        try:
            wordllama: Any = importlib.import_module("wordllama")
            folder = Path(wordllama.__file__).parent
            known = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
            table = torch.as_tensor(known.embedding).float()
        except ImportError:
            raise UserError(
                "the text encoder wordllama is not installed: pip install "
                "'selfflow_robotics[text]'; the text encoder bytes needs no packages"
            ) from None
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"cannot read wordllama's weights ({' '.join(str(error).split())[:200]}); "
                "reinstall it"
            ) from error
        return cls(table, known.tokenizer, tokens)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """As `TextEncoder.encode`."""
        ids = self._ids(texts)
        padded = torch.zeros(len(texts), self.tokens, self.channels)
        for row, x in zip(padded, ids, strict=True):
            row[: len(x)] = self._table[torch.tensor(x, dtype=torch.long)] + self._places[: len(x)]
        return padded

    def check(self, texts: Sequence[str]) -> None:
        """As `TextEncoder.check`."""
        self._ids(texts)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        pieces = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ids = [one.ids for one in pieces]
        check_lengths(texts, [len(x) for x in ids], self.tokens, "wordllama")
        return ids


def place_codes(tokens: int, channels: int) -> Tensor:
    """Sine-cosine position codes [tokens, channels] (arXiv 1706.03762) of unit size."""
    half = channels // 2
    rates = torch.exp(-torch.arange(half) / half * torch.log(torch.tensor(10_000.0)))
    angles = torch.arange(tokens)[:, None] * rates
    return 2**0.5 * torch.cat([angles.sin(), angles.cos()], dim=1)
