"""Text embeddings, computed once per instruction and stored with a run.

`text.safetensors` holds the embeddings float32 [n, M, C] and, in its header, JSON: the texts, the
encoder's name and fingerprint, and a checksum. Training with it needs no text network; new texts
are encoded on first use and stored.
"""

import contextlib
import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.json_file import parse
from selfflow_robotics.text.encoder import TextEncoder, TextEncoderConfig
from selfflow_robotics.text.pretrained import PretrainedEncoder
from selfflow_robotics.text.word_pieces import WordLlamaEncoder
from selfflow_robotics.whole_file import whole_file

FILE = "text.safetensors"
NO_WORDS = ""  # the null condition of guidance


def load_text_encoder(config: TextEncoderConfig) -> TextEncoder:
    """The frozen encoder of `config`. Raises UserError if it is missing, and for "bytes"."""
    if config.encoder == "bytes":
        raise UserError(
            "the text encoder bytes is part of the network and cannot be loaded separately"
        )
    if config.encoder == "wordllama":
        return WordLlamaEncoder.load(config.tokens)
    name = config.encoder.partition(":")[2]
    return PretrainedEncoder.load(name, config.tokens, config.download)


class TextStore:
    """Stored embeddings of an encoder, which is only loaded for new texts."""

    def __init__(
        self,
        config: TextEncoderConfig,
        fingerprint: str,
        known: dict[str, Tensor],
        file: Path | None = None,
        encoder: TextEncoder | None = None,
    ) -> None:
        self.config, self.fingerprint = config, fingerprint
        self._known, self._file, self._encoder = known, file, encoder
        self.tokens, self.channels = known[NO_WORDS].shape

    @classmethod
    def make(cls, config: TextEncoderConfig, texts: Sequence[str], folder: Path) -> "TextStore":
        """Encode the distinct texts into `folder`, or reuse those there.

        Raises UserError if the encoder is missing, a text is too long, or the folder has a damaged
        file or embeddings of a different encoder.
        """
        wanted = sorted({NO_WORDS, *texts})
        if (folder / FILE).exists():
            store = cls.open(folder, config.download)
            if (store.config.encoder, store.config.tokens) != (config.encoder, config.tokens):
                raise UserError(
                    f"{folder / FILE} has embeddings of {store.config.encoder} with "
                    f"{store.config.tokens} tokens, not of {config.encoder} with {config.tokens}; "
                    "choose another name for the new run"
                )
            store.lookup(wanted)
            return store
        encoder = load_text_encoder(config)
        known = dict(zip(wanted, encoder.encode(wanted), strict=True))
        store = cls(config, encoder.fingerprint, known, folder / FILE, encoder)
        try:
            store.save()
        except OSError as error:
            raise UserError(
                f"cannot write {folder / FILE} ({error.strerror}); choose another runs_dir"
            ) from error
        store._encoder = None  # the text network is not kept while training
        return store

    @classmethod
    def open(cls, folder: Path, download: bool = False) -> "TextStore":
        """Raises UserError if it is missing or damaged."""
        file = folder / FILE
        try:
            with safe_open(file, framework="pt") as opened:
                record = parse(opened.metadata()["text"])
                embeddings = opened.get_tensor("embeddings")
            config = TextEncoderConfig(record["encoder"], record["asked_tokens"], download)
            texts, fingerprint = record["texts"], record["fingerprint"]
            fits = embeddings.ndim == 3 and len(texts) == len(embeddings) and NO_WORDS in texts
            if not (fits and record["sha256"] == _checksum(embeddings, texts)):
                raise ValueError("its checksum differs")
        except FileNotFoundError as error:
            raise UserError(f"{file} is missing; copy it with its run") from error
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, UserError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{file} is damaged ({reason}); copy it again") from error
        return cls(config, fingerprint, dict(zip(texts, embeddings, strict=True)), file)

    def same_encoder(self, other: "TextStore") -> bool:
        """Whether an embedding means the same in both; the number of tokens per text aside."""
        if self.fingerprint == other.fingerprint:
            return True
        ours, theirs = self.config, other.config
        return ours.encoder == theirs.encoder and ours.tokens != theirs.tokens

    @property
    def no_words(self) -> Tensor:
        """The embeddings [M, C] of the empty text."""
        return self._known[NO_WORDS]

    def lookup(self, texts: Sequence[str]) -> Tensor:
        """Embeddings float32 [B, M, C]; new texts are encoded, and stored if possible.

        Raises UserError if a new text is too long, or its encoder is missing or differs from the
        original one.
        """
        if new := sorted(set(texts) - set(self._known)):
            self._known |= dict(zip(new, self._ready().encode(new), strict=True))
            with contextlib.suppress(OSError):  # in a read-only folder, encode again next time
                self.save()
        return torch.stack([self._known[text] for text in texts])

    def embed(self, texts: Sequence[str]) -> Tensor:
        """As `lookup`, but new texts are not stored: a data set may have millions of captions."""
        made = dict(self._known)
        if new := sorted(set(texts) - set(made)):
            made |= dict(zip(new, self._ready().encode(new), strict=True))
        return torch.stack([made[text] for text in texts])

    def check(self, texts: Collection[str]) -> None:
        """Raise UserError if a text is too long for the encoder."""
        if new := sorted(set(texts) - set(self._known)):
            self._ready().check(new)

    def save(self) -> None:
        """Write the file atomically. Raises OSError."""
        if self._file is None:
            return
        texts = sorted(self._known)
        embeddings = torch.stack([self._known[text] for text in texts])
        record: dict[str, Any] = {
            "encoder": self.config.encoder,
            "asked_tokens": self.config.tokens,
            "fingerprint": self.fingerprint,
            "texts": texts,
            "sha256": _checksum(embeddings, texts),
        }
        with whole_file(self._file) as file:
            file.write(save({"embeddings": embeddings}, {"text": json.dumps(record)}))

    def _ready(self) -> TextEncoder:
        if self._encoder is None:
            encoder = load_text_encoder(self.config)
            if encoder.fingerprint != self.fingerprint:
                raise UserError(
                    f"{self.config.encoder} differs from the text encoder that made {self._file}; "
                    "restore the original one"
                )
            self._encoder = encoder
        return self._encoder


def _checksum(embeddings: Tensor, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(texts).encode())
    digest.update(embeddings.numpy().tobytes())
    return digest.hexdigest()
