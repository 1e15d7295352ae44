"""Frozen text encoders of the transformers library: T5, CLIP, BERT and others.

Only safetensors are read, and no code of a model is run.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.finite import check_finite
from selfflow_robotics.text.encoder import check_lengths

# Exceptions of third-party code for unsuitable files and names.
_UNFIT = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)


class PretrainedEncoder:
    """As `text.encoder.TextEncoder`: hidden states of the last layer, float32."""

    def __init__(self, name: str, network: Any, tokenizer: Any, tokens: int) -> None:
        self._name, self._network, self._tokenizer = name, network, tokenizer
        # T5 reads texts of any length, CLIP 77 tokens.
        most = getattr(network.config, "max_position_embeddings", None) or tokens
        self.tokens = min(tokens, most)
        self.channels: int = network.config.hidden_size
        digest = hashlib.sha256(f"{type(network).__name__} {self.tokens} ".encode())
        for key, weight in sorted(network.state_dict().items()):
            digest.update(f"{key} {tuple(weight.shape)} ".encode())
            digest.update(weight.detach().numpy().tobytes())
        digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def load(cls, name: str, tokens: int, download: bool) -> "PretrainedEncoder":
        """By its name on Hugging Face or from a folder.

        Raises UserError if the library, the files or the network are missing or do not match.
        """
        try:
            import transformers
        except ImportError:
            raise UserError(
                f"the text encoder hf:{name} needs transformers: pip install "
                "'selfflow_robotics[text]'; the text encoder bytes needs no packages"
            ) from None
        logging = transformers.utils.logging
        verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()  # its warnings about missing weights are errors below
        logging.disable_progress_bar()
        where: dict[str, Any] = {"local_files_only": not download, "trust_remote_code": False}
        try:
            kind = transformers.AutoConfig.from_pretrained(name, **where).model_type
            clip = kind in ("clip", "clip_text_model")
            loader: Any = (
                transformers.CLIPTextModel if clip else transformers.AutoModelForTextEncoding
            )
            loaded: Any = loader.from_pretrained(
                name, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **where
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **where)
        except (*_UNFIT, ImportError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            if Path(name).is_dir() or not isinstance(error, OSError):
                raise UserError(
                    f"cannot read the text encoder hf:{name} ({reason}); check its files"
                ) from error
            advice = "text.download=true downloads it"
            if download:
                advice = "check the name and the network connection"
            raise UserError(
                f"the text encoder hf:{name} was not found ({reason}); {advice}, or use a folder "
                "instead of its name"
            ) from error
        finally:
            logging.set_verbosity(verbosity)
            if shows_progress:
                logging.enable_progress_bar()
        network, report = loaded
        missing = [key for key in report["missing_keys"] if "pooler" not in key]
        if unfit := [*missing, *(str(key) for key in report["mismatched_keys"])]:
            raise UserError(
                f"the weights of the text encoder hf:{name} do not match config.json: {unfit[0]} "
                "is missing or has a different shape; download the files again"
            )
        check_finite(network.state_dict(), f"the weights of the text encoder hf:{name}")
        return cls(name, network.eval().requires_grad_(False), tokenizer, tokens)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """As `TextEncoder.encode`; one text at a time, so that results do not depend on
        the batch."""
        ids = self._ids(texts)
        padded = torch.zeros(len(texts), self.tokens, self.channels)
        with torch.autocast("cpu", enabled=False):
            for row, x in zip(padded, ids, strict=True):
                if x:
                    seen = torch.tensor([x])
                    row[: len(x)] = self._network(input_ids=seen).last_hidden_state[0]
        return padded

    def check(self, texts: Sequence[str]) -> None:
        """As `TextEncoder.check`."""
        self._ids(texts)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids = [self._tokenizer(text)["input_ids"] for text in texts]
        check_lengths(texts, [len(x) for x in ids], self.tokens, f"hf:{self._name}")
        return ids
