"""Prompts: texts that ask for images, one per line of a file."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.results import write_whole, writing
from selfflow_robotics.json_file import read_text


def read_prompts(path: Path) -> list[str]:
    """The lines of a file, without empty ones. Raises UserError if there are none."""
    try:
        prompts = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the prompts in {path} ({error})") from error
    if not prompts:
        raise UserError(f"{path} has no prompts; it needs one per line")
    return prompts


def prompts_hash(prompts: Sequence[str]) -> str:
    """The same for equal prompts in equal order, and for nothing else."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()


def write_prompts(folder: Path, prompts: Sequence[str]) -> None:
    """samples.txt: the k-th line is the prompt of image k."""
    with writing(folder):
        write_whole(folder / "samples.txt", "\n".join(prompts) + "\n")
