"""Device and precision of a run, chosen once and recorded."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from selfflow_robotics.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16")
MOST_THREADS = 1024


def choose_device(name: str) -> torch.device:
    """`auto` is the first CUDA device if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device '{name}' is unknown; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device '{name}' is not supported, only cpu and cuda are; use device=cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device '{name}' requested, but torch sees no GPU; use device=cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"{device} does not exist: torch sees {torch.cuda.device_count()} GPUs")
    return device


def set_threads(count: int) -> None:
    """Set torch's number of threads. Raises UserError for absurd numbers."""
    if not 1 <= count <= MOST_THREADS:
        raise UserError(f"threads must be from 1 to {MOST_THREADS}, got {count}")
    torch.set_num_threads(count)


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Turn a failed allocation, on a GPU or not, into one line with `advice`."""
    try:
        yield
    except RuntimeError as error:
        # torch has a separate exception only for GPUs.
        texts = ("can't allocate memory", "Storage size calculation overflowed")
        is_full = isinstance(error, torch.OutOfMemoryError) or any(t in str(error) for t in texts)
        if not is_full:
            raise
        raise UserError(f"out of memory; {advice}") from error


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 if the hardware multiplies it natively, else fp32.

    A CPU without bf16 instructions would emulate them, several times slower than fp32.
    """
    if name not in PRECISIONS:
        raise UserError(f"precision '{name}' is unknown; choose one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    return "bf16" if has_bf16(device) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def autocast(
    device: torch.device, precision: str, recomputing: bool = False
) -> AbstractContextManager:
    """Mixed precision for matrix products; weights, norms and losses stay fp32.

    `recomputing`: for activation checkpointing. A block that runs twice then casts its weights
    twice, as selective recomputation needs the same operations again, without what was cached.
    """
    bf16 = precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=not recomputing)


# Parameters of glibc's mallopt (malloc.h) with values, in bytes, that keep freed memory.
_MMAP_THRESHOLD = (-3, (2**30, 2**25))  # blocks up to this come from the heap; old glibc: less
_TRIM_THRESHOLD = (-1, 2**31 - 1)  # return the end of the heap to the system only above this
_TOP_PAD = (-2, 2**28)  # grow the heap by this much more than requested


def keep_freed_memory() -> bool:
    """Let the process reuse the memory of freed tensors; returns whether that is possible.

    glibc returns large freed blocks to the system at once, and every training step on a CPU then
    waits for thousands of page faults. Results do not change; resident memory stays at its peak.
    Does nothing on systems without glibc.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt")):
        return False
    name, sizes = _MMAP_THRESHOLD
    if not any(libc.mallopt(name, size) for size in sizes):
        return False  # without it, the others would make large blocks slower
    return all([libc.mallopt(*setting) == 1 for setting in (_TRIM_THRESHOLD, _TOP_PAD)])
