"""Which device and precision a run uses, decided once and written into its record."""

import ctypes
import sys
from contextlib import AbstractContextManager

import torch

from selfflow_robotics.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16")


def choose_device(name: str) -> torch.device:
    """`auto` is the first CUDA device where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device '{name}' is unknown; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device '{name}' was asked for, but torch sees no GPU; use device=cpu")
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 where the hardware multiplies it natively, else fp32.

    A CPU without bf16 instructions would emulate them, several times slower than fp32.
    """
    if name not in PRECISIONS:
        raise UserError(f"precision '{name}' is unknown; choose one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Mixed precision for matrix products; weights, norms and losses stay fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


# Parameters of glibc's mallopt (malloc.h) and values, in bytes, that keep what was freed.
_MMAP_THRESHOLD = (-3, (2**30, 2**25))  # blocks up to this come from the heap; old ones allow less
_TRIM_THRESHOLD = (-1, 2**31 - 1)  # return the heap's end to the system only beyond this
_TOP_PAD = (-2, 2**28)  # grow the heap by so much more than was asked for


def keep_freed_memory() -> bool:
    """Let the process keep the memory of freed tensors for the next ones; whether it could.

    glibc returns large freed blocks to the system at once, and every training step on a CPU then
    waits for thousands of page faults. Numbers are the same; resident memory stays at its peak.
    Does nothing on systems without glibc.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt")):
        return False
    name, sizes = _MMAP_THRESHOLD
    if not any(libc.mallopt(name, size) for size in sizes):
        return False  # the others alone would make large blocks slower
    return all([libc.mallopt(*setting) == 1 for setting in (_TRIM_THRESHOLD, _TOP_PAD)])
