"""Compiling a network's blocks: torch fuses what lies between their matrix products.

Each block is compiled for itself and all share one graph, so compiling takes a twelfth of the time
that a whole network of twelve blocks takes, and runs as fast. Weights keep their names and
checkpoints their layout; results differ by rounding from those without.
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch
from torch import nn

from selfflow_robotics.errors import UserError

# A network of several modalities sees one shape of tokens for each of its questions, as student and
# as teacher; torch gives up compiling, silently, after 8.
MOST_SHAPES = 64


def compiles(setting: str, device: torch.device) -> bool:
    """What `train.compile` (auto, on, off) means on `device`.

    `auto` is on for a GPU where Triton and a compiler are installed. On a CPU matrix products take
    nearly all of the time, and fusing the rest gains less than a short run loses to compiling.
    """
    if setting == "auto":
        has_triton = importlib.util.find_spec("triton") is not None
        return device.type == "cuda" and has_triton and missing_compiler() is None
    return setting == "on"


def missing_compiler() -> str | None:
    """What torch lacks to compile anything: a C++ compiler or Python's headers; None: nothing."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    try:
        subprocess.run([compiler, "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"the C++ compiler '{compiler}' (set CXX to use another)"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return None if header.is_file() else f"Python's headers ({header})"


def check_compiler(setting: str) -> None:
    """Raise UserError where `train.compile` asks for compiling and nothing can be compiled."""
    if setting == "on" and (missing := missing_compiler()):
        raise UserError(
            f"train.compile=on needs {missing}: "
            "install it ('apt-get install -y g++ python3-dev'), or use train.compile=off"
        )


def compile_blocks(model: nn.Module) -> None:
    """Compile, in place and at their first use, the modules in every list named `blocks`."""
    torch._dynamo.config.recompile_limit = max(MOST_SHAPES, torch._dynamo.config.recompile_limit)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and f".{name}".endswith(".blocks"):
            for block in module:
                block.compile(dynamic=False)
