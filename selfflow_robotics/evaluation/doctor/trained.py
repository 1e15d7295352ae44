"""What a network was trained with, from its checkpoint or a file of statistics."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import read_record
from selfflow_robotics.json_file import read_json
from selfflow_robotics.modalities.base import ACTIONS
from selfflow_robotics.robot.normalize import NormStats
from selfflow_robotics.training.checkpoint import resolve_checkpoint


@dataclass(frozen=True)
class Trained:
    """Action statistics of a network, and the provenance of its training data."""

    name: str  # the checkpoint or the file
    stats: NormStats
    provenance: dict[str, Any] | None = None  # None: not told


def from_checkpoint(path: Path) -> Trained:
    """Of a run or checkpoint. Raises UserError if it is missing, damaged, or not of a policy."""
    checkpoint = resolve_checkpoint(path)
    record = read_record(checkpoint)
    codec = record.get("codecs", {}).get(ACTIONS)
    if codec is None:
        raise UserError(f"{checkpoint} was not trained on actions; pass a fine-tuned run")
    return Trained(str(checkpoint), NormStats.from_json(codec["stats"]), record["provenance"])


def from_file(path: Path, dataset: str) -> Trained:
    """Of a JSON file: one entry of OpenVLA's or Octo's statistics, or several by data set.

    Raises UserError if it cannot be read or has several, none of them for `dataset`.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); pass a JSON file") from error
    if isinstance(content, dict) and "action" not in content and content:
        if len(content) > 1 and dataset not in content:
            raise UserError(
                f"{path} has statistics of {', '.join(sorted(content))}, but none of {dataset}; "
                "pass a file with the ones to compare"
            )
        content = content[dataset] if dataset in content else next(iter(content.values()))
    return Trained(str(path), NormStats.from_json(content))
