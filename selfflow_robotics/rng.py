"""Named random streams: the same purpose, seed and step always draw the same numbers.

The library never uses a global generator. Each generator is created where it is needed, from the
purpose of the draw and its identifiers (seed, step, ...). So a resumed run sees the same noise, and
different purposes never share a stream.
"""

import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Name = int | str  # numpy's integers too


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that is negative or does not fit torch's 63 bits."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be from 0 to 2 ** 63 - 1, got {seed}")


def numpy_generator(purpose: str, *names: Name) -> np.random.Generator:
    """A generator that depends only on its arguments, e.g. `numpy_generator("order", seed, 3)`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_hash(purpose, names))))


def torch_generator(
    purpose: str,
    *names: Name,
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
) -> torch.Generator:
    """The same for torch, e.g. `torch_generator("noise", seed, step)`.

    `part` = (number, count): for a process that has the part `number` of `count` equal, consecutive
    parts of every batch; see `draw`.
    """
    generator = _PartGenerator(device) if part[1] > 1 else torch.Generator(device)
    if isinstance(generator, _PartGenerator):
        generator.part = part
    generator.manual_seed(torch_seed(purpose, *names))
    return generator


class _PartGenerator(torch.Generator):
    part: tuple[int, int]


def draw(
    kind: Callable[..., Tensor],
    shape: Sequence[int],
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
    dim: int = 0,
) -> Tensor:
    """Random numbers for every row of a batch, in dimension `dim` of `shape`; `kind` is torch.rand,
    torch.randn or torch.randperm.

    A process that has a part of the batch draws for the whole batch and returns its rows, so that a
    sample's noise does not depend on the number of processes. The numbers are on the generator's
    device.
    """
    settings = {"generator": generator, "device": generator.device, "dtype": dtype}
    if not isinstance(generator, _PartGenerator):
        return kind(*shape, **settings)
    number, count = generator.part
    whole = list(shape)
    whole[dim] *= count
    return kind(*whole, **settings).narrow(dim, number * shape[dim], shape[dim])


def batch_rows(rows: int, generator: torch.Generator) -> int:
    """The rows of the whole batch, of which this process has `rows`."""
    return rows * generator.part[1] if isinstance(generator, _PartGenerator) else rows


def on_host(generator: torch.Generator) -> torch.Generator:
    """The generator itself if it is on the CPU, else one there with the same seed and part."""
    if generator.device.type == "cpu":
        return generator
    twin = torch.Generator()
    if isinstance(generator, _PartGenerator):
        twin = _PartGenerator()
        twin.part = generator.part
    twin.manual_seed(generator.initial_seed())
    return twin


def torch_seed(purpose: str, *names: Name) -> int:
    """A seed for `torch.manual_seed`. On a CPU torch uses the lower 32 of its 63 bits."""
    return _hash(purpose, names) & (2**63 - 1)


def _hash(purpose: str, names: tuple[Name, ...]) -> int:
    """128 bits of SHA-256 over the names, encoded so that (1, 23), (12, 3) and ("1", 23) differ."""
    plain = [name if isinstance(name, str) else int(name) for name in names]
    digest = hashlib.sha256(json.dumps([purpose, *plain]).encode()).digest()
    return int.from_bytes(digest[:16], "little")
