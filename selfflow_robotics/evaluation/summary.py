"""Success rates of several tasks in one table, with the averages that papers report.

Papers average SIMPLER's google-robot results in different ways, which changes the average of the
same results by more than 20 points. Each average here names what it averages; only compare averages
of the same kind.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfflow_robotics.envs.tasks.catalog import GROUPS, get_task
from selfflow_robotics.evaluation.report import Rate, Report, percent
from selfflow_robotics.evaluation.results import write_whole, writing
from selfflow_robotics.evaluation.statistics import stratified_mean
from selfflow_robotics.evaluation.tables import markdown_table, ruled_table

# A cell is a task, or one variant of it.
Cell = tuple[str, str | None]
_PICK, _NEAR, _APPLE = "pick_coke_can", "move_near", "place_apple_in_closed_top_drawer"
_COLUMNS: tuple[tuple[Cell, ...], ...] = (
    ((_PICK, None),),
    ((_NEAR, None),),
    (("open_drawer", None), ("close_drawer", None)),
)
# Name -> groups of cells; the average is the mean over groups of the means over their cells.
AVERAGES: dict[str, tuple[tuple[Cell, ...], ...]] = {
    "4 columns: pick, move near, drawers (open and close), apple in drawer": (
        *_COLUMNS,
        ((_APPLE, None),),
    ),
    "3 columns: pick, move near, drawers (open and close)": _COLUMNS,
    "6 cells: pick horizontal, vertical, standing; move near; open; close": tuple(
        (cell,)
        for cell in (
            *((_PICK, variant) for variant in ("horizontal", "vertical", "standing")),
            (_NEAR, None),
            ("open_drawer", None),
            ("close_drawer", None),
        )
    ),
    "WidowX: spoon, carrot, cube, eggplant": tuple(((task, None),) for task in GROUPS["widowx"]),
}


@dataclass(frozen=True)
class Average:
    """A mean of success rates with its 95 % interval."""

    name: str
    rate: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """The reports of one policy on several tasks."""

    reports: tuple[Report, ...]

    def averages(self, policy: str, *, at_any_step: bool = False) -> list[Average]:
        """The averages whose cells were all evaluated without errors.

        The interval combines the cells' Wilson intervals (`stratified_mean`). at_any_step: count
        success at any step, as in evaluations that end an episode at its first success.
        """
        found = []
        for name, groups in (AVERAGES | self._aggregations()).items():
            weighted = [
                (self._rate(policy, cell), 1 / len(groups) / len(group))
                for group in groups
                for cell in group
            ]
            rates = [(rate, weight) for rate, weight in weighted if rate and not rate.errors]
            if len(rates) < len(weighted):
                continue
            found.append(_average(name, rates, at_any_step))
        return found

    def _aggregations(self) -> dict[str, tuple[tuple[Cell, ...], ...]]:
        """For each task evaluated by variant aggregation, the mean over its variations."""
        played = dict.fromkeys(
            report.task.partition("@")[0] for report in self.reports if "@" in report.task
        )
        return {
            f"{task} in its {len(own)} surroundings": tuple(((one.name, None),) for one in own)
            for task in played
            if (own := get_task(task).aggregation())
        }

    def _rate(self, policy: str, cell: Cell) -> Rate | None:
        task, variant = cell
        for report in self.reports:
            if report.task == task and policy in report.episodes:
                rate = report.rate(policy, variant)
                is_whole = not report.left_out or variant in report.variants
                return rate if is_whole and rate.count + rate.errors else None
        return None

    @property
    def policy(self) -> str:
        """The evaluated policy's name."""
        return self.reports[0].policy

    def table(self) -> list[list[str]]:
        """Header, a row per task, a row per average, as text."""
        others = [name for name in self.reports[0].episodes if name != self.policy]
        rows = [["task", "success", "95 % interval", "n", "at any step", *others]]
        for report in self.reports:
            rate = report.rate(self.policy)
            low, high = rate.interval
            any_step = percent(rate.successes_at_any_step / rate.count) if rate.count else "-"
            baselines = [report.rate(name).text() for name in others]
            rows.append(
                [
                    *(report.task, rate.text(), f"{100 * low:.0f}-{percent(high)}"),
                    *(str(rate.count), any_step, *baselines),
                ]
            )
        any_steps = {a.name: a for a in self.averages(self.policy, at_any_step=True)}
        baselines = [{a.name: a for a in self.averages(name)} for name in others]
        for average in self.averages(self.policy):
            low, high = average.interval
            rows.append(
                [
                    *(f"mean of {average.name}", percent(average.rate)),
                    *(f"{100 * low:.0f}-{percent(high)}", ""),
                    percent(any_steps[average.name].rate),
                    *(percent(own[average.name].rate) if own else "-" for own in baselines),
                ]
            )
        return rows

    def notes(self) -> list[str]:
        """The lines under the table: the answers of stop=sequential."""
        answers = [f"{r.task}: {r.answer.text()}" for r in self.reports if r.answer]
        if answers:
            answers.append(
                "Each answer is at the 5 % level by itself, and the intervals in the table do not "
                "allow for stopping early."
            )
        return answers

    def title(self) -> str:
        """The title line."""
        first = self.reports[0]
        return (
            f"{len(self.reports)} tasks on {first.simulator}, protocol {first.protocol}, "
            f"seed {first.seed}"
        )

    def to_text(self) -> str:
        """For the terminal."""
        notes = ["", *self.notes()] if self.notes() else []
        return "\n".join([self.title(), "", *ruled_table(self.table()), *notes])

    def to_markdown(self) -> str:
        """For a page."""
        page = f"# {self.title()}\n\n{markdown_table(self.table())}"
        return page + "".join(f"\n\n{note}" for note in self.notes())

    def to_json(self) -> dict[str, Any]:
        """The averages of every policy and the tasks' reports."""
        return {
            "averages": {
                policy: [
                    {"of": a.name, "rate": a.rate, "interval_95": a.interval}
                    for a in self.averages(policy)
                ]
                for policy in self.reports[0].episodes
            },
            "tasks": {report.task: report.to_json() for report in self.reports},
        }

    def write(self, folder: Path) -> None:
        """Write summary.md and summary.json. Raises UserError if that fails."""
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "summary.md", self.to_markdown() + "\n")
            write_whole(folder / "summary.json", json.dumps(self.to_json(), indent=2) + "\n")


def _average(name: str, rates: Sequence[tuple[Rate, float]], at_any_step: bool) -> Average:
    """The weighted mean of rates without errors; the weights sum to 1."""
    counted = [rate.under("any_step" if at_any_step else "last_step") for rate, _ in rates]
    mean, interval = stratified_mean(
        [rate.successes / rate.count for rate in counted],
        [rate.interval for rate in counted],
        [weight for _, weight in rates],
    )
    return Average(name, mean, interval)
