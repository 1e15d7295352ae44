"""What latency cost in an evaluation with `clock=real`, and success against latency."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.comparing.matching import Evaluation, reports_beside
from selfflow_robotics.evaluation.ledger import EpisodeRecord
from selfflow_robotics.evaluation.statistics import wilson_interval

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Timing:
    """Over the episodes of one policy; `given_ms` None: the latency was measured."""

    given_ms: float | None
    control_hz: float
    answers: int
    percentiles_ms: dict[str, float]  # {"p50": ...}
    held_steps: int
    steps: int

    @classmethod
    def of(
        cls, records: Sequence[EpisodeRecord], given_ms: float | None, hz: float
    ) -> "Timing | None":
        """None if no episode was played."""
        played = [record for record in records if record.error is None and record.latencies_ms]
        latencies = [value for record in played for value in record.latencies_ms or ()]
        if not latencies:
            return None
        values = np.percentile(latencies, PERCENTILES)
        return cls(
            given_ms,
            hz,
            len(latencies),
            {f"p{p}": round(float(v), 2) for p, v in zip(PERCENTILES, values, strict=True)},
            sum(record.held_steps or 0 for record in played),
            sum(record.steps for record in played),
        )

    def text(self) -> str:
        """One line for the report."""
        lost = (
            f"the robot held still in {self.held_steps} of {self.steps} control steps "
            f"({self.held_steps / max(1, self.steps):.0%})"
        )
        if self.given_ms is not None:
            steps = self.given_ms / 1000 * self.control_hz
            return (
                f"clock=real, latency {self.given_ms:g} ms as given ({steps:.2g} control steps at "
                f"{self.control_hz:g} Hz): {lost}."
            )
        named = ", ".join(f"{name} {value:.1f} ms" for name, value in self.percentiles_ms.items())
        return (
            f"clock=real, latency measured in {self.answers} answers: {named}; {lost}. It depends "
            "on this computer and its load, so a repeated or resumed evaluation differs."
        )


@dataclass(frozen=True)
class AtLatency:
    """The result of the same policy and episodes at one latency."""

    latency_ms: float  # as given, or the median of those measured
    is_measured: bool
    successes: int
    episodes: int
    held: float  # share of the control steps

    @property
    def rate(self) -> float:
        """Success rate."""
        return self.successes / self.episodes

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson_interval(self.successes, self.episodes)


def results_by_latency(folder: Path) -> list[AtLatency]:
    """This and the other results beside it that differ in their latency only, by latency; with the
    clock paused, it is 0. Unfinished and damaged results and those with errors are left out."""
    found = []
    try:
        own = Evaluation.open(folder)
    except UserError:
        return []
    for other, report in reports_beside(folder):
        try:
            counts = report["policies"][other.settings["policy"]]["all"]
            timing = report.get("timing") or {}
            steps, held = timing.get("steps", 1), timing.get("held_steps", 0)
            given = other.settings.get("latency_ms")
            is_measured = bool(timing) and given is None
            latency = timing["percentiles_ms"]["p50"] if is_measured else given or 0.0
            result = AtLatency(
                *(float(latency), is_measured, int(counts["successes"]), int(counts["count"])),
                held / steps,
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        is_comparable = other.world == own.world and _without(other) == _without(own)
        if is_comparable and result.episodes and not counts["errors"]:
            found.append(result)
    return sorted(found, key=lambda one: (one.latency_ms, one.is_measured))


def _without(one: Evaluation) -> dict[str, Any]:
    """Its settings without the latency."""
    return {k: v for k, v in one.settings.items() if k not in ("clock", "latency_ms")}


def latency_rows(results: Sequence[AtLatency]) -> list[list[str]]:
    """A table of the results, with a header."""
    rows = [["latency", "success", "95 % interval", "n", "steps held still"]]
    for one in results:
        low, high = one.interval
        name = f"{one.latency_ms:g} ms" + (" (measured, median)" if one.is_measured else "")
        rows.append(
            [
                *(name, f"{100 * one.rate:.0f} %", f"{100 * low:.0f}-{100 * high:.0f} %"),
                *(str(one.episodes), f"{one.held:.0%}"),
            ]
        )
    return rows
