"""Machines to plan for: their published peak rates, and this computer's measured ones."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Machine:
    """One GPU, or a computer's processor; rates are for dense matrices."""

    name: str
    memory: float  # bytes
    flops: dict[str, float]  # precision -> peak FLOP/s
    bandwidth: float  # bytes/s of its memory
    link: float = 0.0  # bytes/s to the other GPUs of a node, in each direction
    network: float = 0.0  # bytes/s of its share of the connection to other nodes
    source: str = "measured"


# Memory and rates of the SXM versions. The rates in NVIDIA's data sheets with sparsity are halved.
# fp32 is without tensor cores, which torch uses for fp32 only if asked to.
MACHINES = {
    "a100": Machine(
        "A100 SXM 80 GB",
        memory=80e9,
        flops={"bf16": 312e12, "fp32": 19.5e12},
        bandwidth=2.039e12,
        link=300e9,
        network=25e9,
        source="NVIDIA A100 data sheet (2021); network: DGX A100, 8 x 200 Gb/s",
    ),
    "h100": Machine(
        "H100 SXM",
        memory=80e9,
        flops={"bf16": 989e12, "fp32": 67e12},
        bandwidth=3.35e12,
        link=450e9,
        network=50e9,
        source="NVIDIA H100 data sheet (2023); network: DGX H100, 8 x 400 Gb/s",
    ),
    "h200": Machine(
        "H200 SXM",
        memory=141e9,
        flops={"bf16": 989e12, "fp32": 67e12},
        bandwidth=4.8e12,
        link=450e9,
        network=50e9,
        source="NVIDIA H200 data sheet (2024); network: DGX H200, 8 x 400 Gb/s",
    ),
}


def peak_of(device_name: str, precision: str) -> float | None:
    """Peak FLOP/s of a GPU by the name that torch reports ("NVIDIA H100 80GB HBM3"); None if it is
    not in `MACHINES`. Versions with other rates (PCIe, NVL) count as unknown."""
    words = device_name.upper().replace("-", " ").split()
    if {"PCIE", "NVL", "MIG"} & set(words):
        return None
    for key, machine in MACHINES.items():
        if key.upper() in words:
            return machine.flops.get(precision)
    return None


MATRIX = 768  # sides of the timed product
COPIED = 2**24  # numbers of the timed sum, far more than a cache holds


def this_computer(precision: str) -> Machine:
    """Time a matrix product and a sum of large tensors, for half a second in all."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, MATRIX, MATRIX, dtype=dtype)
    x, y = torch.zeros(2, COPIED)
    product = seconds_of(lambda: a @ b, 0.3)
    added = seconds_of(lambda: x.add_(y), 0.2)
    return Machine(
        "this computer's processor",
        memory=_memory(),
        flops={precision: 2 * MATRIX**3 / product},
        bandwidth=3 * 4 * COPIED / added,  # reads two numbers, writes one
        source=f"measured: a product of {MATRIX} x {MATRIX} matrices, a sum of {COPIED} numbers",
    )


def seconds_of(call: Callable[[], object], budget: float) -> float:
    """Seconds of a call on idle cores: processor time per thread, the least of several calls that
    take `budget` seconds together (at least three; one more before them does not count)."""
    call()
    took: list[float] = []
    while sum(took) < budget or len(took) < 3:
        began = time.process_time()
        call()
        took.append((time.process_time() - began) / torch.get_num_threads())
    return min(took)


def _memory() -> float:
    """Bytes of main memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
