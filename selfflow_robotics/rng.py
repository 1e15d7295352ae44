"""Named random streams: the same purpose, seed and step always draw the same numbers.

The library never uses a global generator. Each generator is created where it is needed, from the
purpose of the draw and its identifiers (seed, step, ...). So a resumed run sees the same noise, and
different purposes never share a stream.
"""

import hashlib
import json

import numpy as np
import torch

Name = int | str  # numpy's integers too


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that is negative or does not fit torch's 63 bits."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be from 0 to 2 ** 63 - 1, got {seed}")


def numpy_generator(purpose: str, *names: Name) -> np.random.Generator:
    """A generator that depends only on its arguments, e.g. `numpy_generator("order", seed, 3)`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_hash(purpose, names))))


def torch_generator(
    purpose: str, *names: Name, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The same for torch, e.g. `torch_generator("noise", seed, rank, step)`."""
    return torch.Generator(device).manual_seed(torch_seed(purpose, *names))


def torch_seed(purpose: str, *names: Name) -> int:
    """A seed for `torch.manual_seed`. On a CPU torch uses the lower 32 of its 63 bits."""
    return _hash(purpose, names) & (2**63 - 1)


def _hash(purpose: str, names: tuple[Name, ...]) -> int:
    """128 bits of SHA-256 over the names, encoded so that (1, 23), (12, 3) and ("1", 23) differ."""
    plain = [name if isinstance(name, str) else int(name) for name in names]
    digest = hashlib.sha256(json.dumps([purpose, *plain]).encode()).digest()
    return int.from_bytes(digest[:16], "little")
