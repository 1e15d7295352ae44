"""Randomness as a function of names: the same seed, rank and step always draw the same numbers.

Nothing in the library reads a global generator. A generator is made where it is needed from the
integers that identify the draw (seed, step, ...), so a resumed run sees the same noise. Names that
differ in zeros at their end alone, (3) and (3, 0), are one name.
"""

import numpy as np
import torch


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that is negative or does not fit torch's 63 bits."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be from 0 to 2 ** 63 - 1, got {seed}")


def numpy_generator(*names: int) -> np.random.Generator:
    """A generator that depends on `names` (non-negative integers, e.g. seed, episode) alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(names)))


def torch_generator(*names: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The same for torch, e.g. `torch_generator(seed, rank, step)`."""
    state = np.random.SeedSequence(names).generate_state(2, np.uint32)
    seed = int(state[0]) << 32 | int(state[1])
    return torch.Generator(device).manual_seed(seed & (2**63 - 1))
