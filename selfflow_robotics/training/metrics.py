"""metrics.jsonl: one JSON line for each logged step."""

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor


class MetricsLog:
    """Appends to metrics.jsonl; a resumed run first forgets what came after its checkpoint."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step(line) < resumed_step]
            kept = path.with_suffix(".tmp")  # a full disk must not cost what was logged
            kept.write_text("".join(line + "\n" for line in lines))
            kept.replace(path)

    def write(self, record: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({k: _plain(v) for k, v in record.items()}) + "\n")


def _step(line: str) -> float:
    """The step of a line; a torn line counts as later than any step."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf


def _plain(value: Any) -> Any:
    """Tensors as numbers or lists; NaN as null, which is what JSON has."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
