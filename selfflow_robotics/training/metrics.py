"""metrics.jsonl: one JSON line per logged step, and what goes elsewhere with it."""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.training.trackers import Tracker, numbers_of, open_trackers

logger = logging.getLogger(__name__)

MOST_LINE = 2**20  # characters; longer lines are not metrics


class MetricsLog:
    """Appends to metrics.jsonl, and to the trackers `log_to`; a resumed run first removes lines
    after its checkpoint. Warns once if student and teacher agree too early in a run of `steps`."""

    def __init__(
        self, path: Path, resumed_step: int, log_to: Sequence[Tracker] = (), steps: int = 0
    ) -> None:
        """Raises UserError if the file cannot be read or written, and as `open_trackers`."""
        self.path = path
        self._steps, self._warned = steps, False
        if path.exists():
            self._cut(path, resumed_step)
        self._trackers = open_trackers(log_to, path.parent, resumed_step)

    def _cut(self, path: Path, resumed_step: int) -> None:
        with self._one_line():
            kept = path.with_suffix(".tmp")  # a full disk must not lose logged lines
            with path.open() as before, kept.open("w") as after:
                while line := before.readline(MOST_LINE):
                    if _step(line) < resumed_step:
                        after.write(line.rstrip("\n") + "\n")
            kept.replace(path)

    def write(self, record: dict[str, Any], roles: Sequence[dict[str, Any]] = ()) -> None:
        """Append the record of a step: with the metrics of its role in the same line, or with a
        line of its own for each of several `roles` (`by_role`)."""
        if len(roles) == 1:
            lines = [{**record, **roles[0], "loss": record["loss"]}]
        else:
            lines = [record, *({"step": record["step"], **one} for one in roles)]
        lines = [{k: _plain(v) for k, v in line.items()} for line in lines]
        with self._one_line(), self.path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        numbers = {key: value for line in lines for key, value in numbers_of(line).items()}
        for tracker in self._trackers:
            tracker.write(record["step"], numbers)
        if not self._warned and (warning := early_agreement(lines, self._steps)):
            self._warned = True
            logger.warning(warning)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close()

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


def by_role(losses: Tensor, metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The metrics of a step's batches, merged by role: `loss` is the mean over a role's batches,
    of `losses` [batches]; the other metrics are those of its last batch."""
    batches: dict[Any, list[int]] = defaultdict(list)
    for number, one in enumerate(metrics):
        batches[one.get("role")].append(number)
    return [{**metrics[own[-1]], "loss": losses[own].mean()} for own in batches.values()]


EARLY, AGREEING = 0.05, 0.95  # share of the run, cosine


def early_agreement(records: Sequence[dict[str, Any]], steps: int) -> str | None:
    """A warning if the student's features predict the teacher's almost perfectly within the first
    5 % of `steps`: L_rep then has nothing left to teach. None if they do not."""
    for record in records:
        cosine = record.get("teacher_student_cosine")
        if record["step"] < EARLY * steps and isinstance(cosine, float) and cosine > AGREEING:
            return (
                f"student and teacher agree too early: cosine {cosine:.3f} at step "
                f"{record['step']} of {steps}; choose a deeper objective.teacher_layer, a larger "
                "objective.mask_ratio, or a larger network (expected if the initial weights are "
                "those of a trained network)"
            )
    return None


def live(record: dict[str, Any]) -> dict[str, str]:
    """What the progress bar shows of a step."""
    shown = {"loss": f"{float(record['loss']):.3f}"}
    for name, key in (("samples/s", "samples_per_s"), ("tokens/s", "tokens_per_s")):
        if key in record:
            shown[name] = f"{record[key]:.3g}"
    if "mfu" in record:
        shown["MFU"] = f"{record['mfu']:.0%}"
    return shown


class Work:
    """What the steps since the last logged one did, for rates."""

    def __init__(self, peak_flops: float | None = None) -> None:
        """`peak_flops`: FLOP/s of a process's device; None: unknown."""
        self._peak = peak_flops
        self._samples, self._flops = 0, 0.0

    def add(self, samples: int, flops: float) -> None:
        """Count one process's share of a step: samples, and FLOPs of matrix products (0:
        unknown)."""
        self._samples += samples
        self._flops += flops

    def rates(self, seconds: float, processes: int) -> dict[str, float]:
        """Samples per second of all processes and, if known, the share of the peak rate (MFU);
        starts a new count."""
        found = {}
        if self._samples:
            found["samples_per_s"] = processes * self._samples / seconds
        if self._flops and self._peak:
            found["mfu"] = self._flops / seconds / self._peak
        self._samples, self._flops = 0, 0.0
        return found


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
