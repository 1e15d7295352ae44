"""metrics.jsonl: one JSON line per logged step."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from selfflow_robotics.errors import UserError

MOST_LINE = 2**20  # characters; longer lines are not metrics


class MetricsLog:
    """Appends to metrics.jsonl; a resumed run first removes lines after its checkpoint."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        if not path.exists():
            return
        with self._one_line():
            kept = path.with_suffix(".tmp")  # a full disk must not lose logged lines
            with path.open() as before, kept.open("w") as after:
                while line := before.readline(MOST_LINE):
                    if _step(line) < resumed_step:
                        after.write(line.rstrip("\n") + "\n")
            kept.replace(path)

    def write(self, record: dict[str, Any]) -> None:
        with self._one_line(), self.path.open("a") as file:
            file.write(json.dumps({k: _plain(v) for k, v in record.items()}) + "\n")

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path} is not text; move it away and repeat the command"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot read or write {self.path} ({error.strerror}); free space or move it "
                "away, then repeat the command"
            ) from error


def _step(line: str) -> float:
    """The step of a line; incomplete or unknown lines count as later than any step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf


def _plain(value: Any) -> Any:
    """Tensors as numbers or lists; NaN as null, as JSON has no NaN."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
