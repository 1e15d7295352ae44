"""Compile a network's blocks: torch fuses the operations between matrix products.

Blocks are compiled separately and share one graph: for twelve blocks, compiling takes a twelfth of
the time of the whole network, and is as fast. Weight names and checkpoints do not change; results
differ by rounding.
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
from selfflow_robotics.training.activations import blocks_of

# A network sees one token shape per role, as student and as teacher; by default, torch silently
# stops compiling after 8.
MOST_SHAPES = 64


def compiles(setting: str, device: torch.device) -> bool:
    """Resolve `train.compile` (auto, on, off) for `device`.

    `auto` is on for a GPU if Triton and a compiler are installed. On a CPU, matrix products take
    nearly all the time, and fusing the rest saves less than compiling costs in a short run.
    """
    if setting == "auto":
        has_triton = importlib.util.find_spec("triton") is not None
        return device.type == "cuda" and has_triton and missing_compiler() is None
    return setting == "on"


def missing_compiler() -> str | None:
    """What torch needs for compiling and is missing: a C++ compiler, Python's headers or a path
    without spaces; None if nothing is missing."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    try:
        subprocess.run([compiler, "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"the C++ compiler '{compiler}' (set CXX to use another)"
    libraries = Path(torch.__file__).parent
    if " " in str(libraries):  # torch hands its own path to the linker unquoted
        return f"torch in a folder without spaces (it is in {libraries})"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return None if header.is_file() else f"Python's headers ({header})"


def check_compiler(setting: str) -> None:
    """Raise UserError if `train.compile` is on but compiling is impossible."""
    if setting == "on" and (missing := missing_compiler()):
        raise UserError(
            f"train.compile=on needs {missing}: "
            "install it ('apt-get install -y g++ python3-dev'), or use train.compile=off"
        )


def compile_blocks(model: nn.Module) -> None:
    """Compile the modules in every list named `blocks`, in place; torch compiles at first use."""
    torch._dynamo.config.recompile_limit = max(MOST_SHAPES, torch._dynamo.config.recompile_limit)
    torch._dynamo.config.optimize_ddp = False  # splits large graphs; those of blocks are small
    for block in blocks_of(model):
        block.compile(dynamic=False)
