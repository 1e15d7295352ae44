"""Which of several policies is better, on the episodes that they both played.

For each pair of policies and each task: both rates, their paired difference with its interval,
McNemar's exact test, adjusted by Holm's method over all tasks and pairs, and a verdict.
"""

import itertools
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from selfflow_robotics.evaluation.comparing.matching import (
    Candidate,
    Evaluation,
    differing,
    match_results,
    short,
)
from selfflow_robotics.evaluation.comparing.notes import Pairing, notes, troubles
from selfflow_robotics.evaluation.comparing.paired import PairedCounts
from selfflow_robotics.evaluation.comparing.verdict import Goal, Verdict, judge
from selfflow_robotics.evaluation.ledger import SuccessRule
from selfflow_robotics.evaluation.report import Rate, percent
from selfflow_robotics.evaluation.statistics import (
    Interval,
    holm_adjusted,
    stratified_mean,
    task_bootstrap_interval,
)
from selfflow_robotics.evaluation.tables import ruled_table


@dataclass(frozen=True)
class Row:
    """The comparison of two policies on one task."""

    first: str  # their labels
    second: str
    task: str
    protocol: str
    counts: PairedCounts
    holm_p: float
    verdict: Verdict
    more_episodes: int  # that would do for the goal's difference

    @property
    def rates(self) -> tuple[Rate, Rate]:
        """Both success rates, on the common episodes."""
        first, second = self.counts.successes
        return Rate(first, self.counts.count), Rate(second, self.counts.count)

    def sentence(self, goal: Goal) -> str:
        """The verdict in words."""
        points = f"{100 * goal.difference:g} points"
        if self.verdict in ("first", "second"):
            return f"{getattr(self, self.verdict)} is better"
        if self.verdict == "no_difference":
            return f"no difference found, with enough episodes for one of {points}"
        return (
            f"not enough episodes: {self.more_episodes} more would do for a difference of {points}"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything about the pair, JSON-able."""
        counts = self.counts
        return {
            "task": self.task,
            "protocol": self.protocol,
            "first": self.first,
            "second": self.second,
            "count": counts.count,
            "counts": asdict(counts),
            "rates": [
                {
                    "rate": rate.successes / rate.count,
                    "wilson_95": rate.interval,
                    "clopper_pearson_95": rate.exact_interval,
                }
                for rate in self.rates
            ],
            "difference": counts.difference,  # second minus first
            "tango_95": counts.interval,
            "mcnemar_p": counts.p,
            "holm_p": self.holm_p,
            "e_value": counts.e,
            "verdict": self.verdict,
            "better": getattr(self, self.verdict) if self.verdict in ("first", "second") else None,
            "more_episodes": self.more_episodes,
        }


@dataclass(frozen=True)
class MeanRow:
    """The mean difference of two policies over their common tasks, second minus first."""

    first: str
    second: str
    tasks: tuple[str, ...]
    difference: float
    interval: Interval  # for these tasks
    bootstrap: Interval  # for other tasks like these


@dataclass(frozen=True)
class Comparison:
    """The comparison of all candidates, two at a time."""

    candidates: tuple[Candidate, ...]
    played: dict[str, tuple[Evaluation, ...]]  # label -> the evaluations that were compared
    success: SuccessRule
    goal: Goal
    rows: tuple[Row, ...]
    means: tuple[MeanRow, ...]
    remarks: tuple[str, ...]
    troubles: tuple[str, ...]  # episodes that failed to run

    def to_text(self) -> str:
        """For the terminal."""
        rule = {
            "last_step": "at the last step",
            "any_step": "at any step",
            "early_stop": "at any step, as if episodes ended at their first success",
        }[self.success]
        names = [f"{c.label}: {c.given}{self._settings(c.label)}" for c in self.candidates]
        verdicts = [f"{self._name(row)}: {row.sentence(self.goal)}" for row in self.rows]
        legend = [
            f"Success {rule}, on common episodes. Brackets: 95 % intervals, Wilson's for rates and",
            "Tango's for differences. p: McNemar's exact test; Holm: p adjusted for "
            f"{len(self.rows)} test{'s' if len(self.rows) > 1 else ''};",
            "e: e-value, for stopping at any time: 20 or more is evidence at 5 % (unadjusted).",
        ]
        if self.means:
            legend += [
                "Means weigh tasks equally. Their second bracket is a bootstrap over tasks, which",
                "is too narrow for fewer than about ten.",
            ]
        blocks = [
            names,
            ruled_table(self._table()),
            verdicts,
            [self._mean(mean) for mean in self.means],
            legend,
        ]
        blocks.append([f"Note: {remark}." for remark in self.remarks])
        return "\n\n".join("\n".join(block) for block in blocks if block)

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "success": self.success,
            "goal": asdict(self.goal),
            "candidates": {
                c.label: {
                    "given": c.given,
                    "evaluations": [
                        {"folder": str(e.folder), "task": e.task, **e.settings}
                        for e in self.played[c.label]
                    ],
                }
                for c in self.candidates
            },
            "tasks": [row.to_json() for row in self.rows],
            "means": [asdict(mean) for mean in self.means],
            "remarks": self.remarks,
            "troubles": self.troubles,
        }

    def _table(self) -> list[list[str]]:
        several = len(self.candidates) > 2
        columns = ("first", "second") if several else ("A", "B")
        header = [*columns, f"{columns[1]} - {columns[0]} (points)", "p", "Holm", "e"]
        lines = [["task", *(["pair"] if several else []), "n", *header]]
        for row in self.rows:
            low, high = (100 * bound for bound in row.counts.interval)
            lines.append(
                [
                    self._task(row),
                    *([f"{row.first}, {row.second}"] if several else []),
                    str(row.counts.count),
                    *(_with_interval(rate) for rate in row.rates),
                    f"{100 * row.counts.difference:+.1f} [{low:.1f}, {high:.1f}]",
                    *(f"{value:.2g}" for value in (row.counts.p, row.holm_p, row.counts.e)),
                ]
            )
        return lines

    def _task(self, row: Row) -> str:
        """The task, with its protocol if there are several."""
        protocols = {other.protocol for other in self.rows}
        return row.task if len(protocols) == 1 else f"{row.task} ({row.protocol})"

    def _name(self, row: Row) -> str:
        pair = f", {row.first} and {row.second}" if len(self.candidates) > 2 else ""
        return self._task(row) + pair

    def _mean(self, mean: MeanRow) -> str:
        low, high = (100 * bound for bound in mean.interval)
        wide = [100 * bound for bound in mean.bootstrap]
        return (
            f"mean of {len(mean.tasks)} tasks: {mean.second} - {mean.first} = "
            f"{100 * mean.difference:+.1f} points [{low:.1f}, {high:.1f}]; for other tasks like "
            f"these [{wide[0]:.1f}, {wide[1]:.1f}]"
        )

    def _settings(self, label: str) -> str:
        """What tells this candidate from the others, in brackets."""
        everyone = [one.player for evaluations in self.played.values() for one in evaluations]
        words = []
        for key in differing(everyone):
            own = [short(key, one.player.get(key)) for one in self.played[label]]
            words.append(f"{key} {' or '.join(dict.fromkeys(own))}")
        return f" ({', '.join(words)})" if words else ""


def compare(givens: Sequence[str], success: SuccessRule, goal: Goal) -> Comparison:
    """Compare the results that the user names (`Candidate.find`), each with each.

    Raises UserError if they cannot be paired; see `matching.match_results`.
    """
    candidates = tuple(
        Candidate.find(label, given)
        for label, given in zip(string.ascii_uppercase, givens, strict=False)
    )
    found: list[Pairing] = []
    remarks: list[str] = []
    for first, second in itertools.combinations(candidates, 2):
        matches = match_results(first, second)
        remarks += matches.remarks
        found += [Pairing(first.label, second.label, one) for one in matches.found]
    rows = _rows(found, success, goal)
    return Comparison(
        candidates=candidates,
        played={candidate.label: _played(candidate.label, found) for candidate in candidates},
        success=success,
        goal=goal,
        rows=tuple(rows),
        means=tuple(_means(rows)),
        remarks=tuple([*dict.fromkeys(remarks), *notes(found)]),
        troubles=tuple(troubles(found)),
    )


def _played(label: str, found: Sequence[Pairing]) -> tuple[Evaluation, ...]:
    """The candidate's evaluations that were compared with any other's."""
    evaluations = [
        one
        for pairing in found
        for name, side in zip(pairing.labels, pairing.match.evaluations, strict=True)
        for one in side
        if name == label
    ]
    return tuple({one.folder: one for one in evaluations}.values())


def _rows(found: Sequence[Pairing], success: SuccessRule, goal: Goal) -> list[Row]:
    counted = [
        PairedCounts.of(
            [one.succeeded(success) for one, _ in pairing.match.pairs],
            [other.succeeded(success) for _, other in pairing.match.pairs],
        )
        for pairing in found
    ]
    adjusted = holm_adjusted([counts.p for counts in counted])
    rows = []
    for pairing, counts, p in zip(found, counted, adjusted, strict=True):
        verdict, more = judge(counts, goal, len(found), p)
        task, protocol = pairing.match.task, pairing.match.protocol
        rows.append(Row(*pairing.labels, task, protocol, counts, p, verdict, more))
    return rows


def _means(rows: Sequence[Row]) -> list[MeanRow]:
    """For each pair of candidates with several tasks (of one protocol)."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.first, row.second, row.protocol), []).append(row)
    means = []
    for (first, second, _), own in groups.items():
        if len(own) < 2:
            continue
        values = [row.counts.difference for row in own]
        intervals = [row.counts.interval for row in own]
        mean, interval = stratified_mean(values, intervals, [1 / len(own)] * len(own))
        tasks = tuple(row.task for row in own)
        means.append(MeanRow(first, second, tasks, mean, interval, task_bootstrap_interval(values)))
    return means


def _with_interval(rate: Rate) -> str:
    low, high = rate.interval
    return f"{percent(rate.successes / rate.count)} [{100 * low:.0f}, {100 * high:.0f}]"
