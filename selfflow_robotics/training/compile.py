"""Compiling a network's blocks: torch fuses what lies between their matrix products.

Each block is compiled for itself and all share one graph, so compiling takes a twelfth of the time
that a whole network of twelve blocks takes, and runs as fast. Weights keep their names and
checkpoints their layout; results differ by rounding from those without.
"""

import importlib.util

import torch
from torch import nn

# A network of several modalities sees one shape of tokens for each of its questions, as student and
# as teacher; torch gives up compiling, silently, after 8.
MOST_SHAPES = 64


def compiles(setting: str, device: torch.device) -> bool:
    """What `train.compile` (auto, on, off) means on `device`.

    `auto` is on for a GPU where Triton is installed. On a CPU matrix products take nearly all of
    the time, and fusing the rest gains less than a short run loses to compiling.
    """
    if setting == "auto":
        return device.type == "cuda" and importlib.util.find_spec("triton") is not None
    return setting == "on"


def compile_blocks(model: nn.Module) -> None:
    """Compile, in place and at their first use, the modules in every list named `blocks`."""
    torch._dynamo.config.recompile_limit = max(MOST_SHAPES, torch._dynamo.config.recompile_limit)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and f".{name}".endswith(".blocks"):
            for block in module:
                block.compile(dynamic=False)
