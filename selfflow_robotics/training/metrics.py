"""metrics.jsonl: one JSON line for each logged step."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from selfflow_robotics.errors import UserError

MOST_LINE = 2**20  # characters; a longer line is not ours


class MetricsLog:
    """Appends to metrics.jsonl; a resumed run first forgets what came after its checkpoint."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        if not path.exists():
            return
        with self._one_line():
            kept = path.with_suffix(".tmp")  # a full disk must not cost what was logged
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
            raise UserError(f"{self.path} is no text; move it away to go on") from error
        except OSError as error:
            raise UserError(
                f"cannot read or write {self.path} ({error.strerror}); free space or move it "
                "away, then repeat the command"
            ) from error


def _step(line: str) -> float:
    """The step of a line; a torn or foreign line counts as later than any step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf


def _plain(value: Any) -> Any:
    """Tensors as numbers or lists; NaN as null, which is what JSON has."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
