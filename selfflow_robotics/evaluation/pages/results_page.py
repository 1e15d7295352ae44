"""The results of an evaluation as one HTML page.

The page is self-contained: Plotly's script and a small picture of each film are embedded. Only the
films themselves stay in their folder beside it.
"""

import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.comparing.matching import Evaluation, reports_beside
from selfflow_robotics.evaluation.ledger import FINGERPRINT, EpisodeRecord
from selfflow_robotics.evaluation.pages.films import last_picture
from selfflow_robotics.evaluation.pages.results_charts import (
    Chart,
    checkpoint_chart,
    latency_chart,
    outcome_chart,
    place_charts,
    rate_chart,
)
from selfflow_robotics.evaluation.pages.template import fill
from selfflow_robotics.evaluation.published import RULE_WORDS
from selfflow_robotics.evaluation.report import Rate, Report, percent
from selfflow_robotics.evaluation.timing import latency_rows, results_by_latency
from selfflow_robotics.json_file import read_json

MOST_FILMS = 24  # with a picture
MOST_ROWS = 300  # of the table of failed episodes; episodes.csv has all
# What report.json's provenance says first.
_FIRST = ("renderer", "vulkan_devices", "mujoco", "sapien", "simpler_env_commit", "machine")


@dataclass(frozen=True)
class Film:
    """A film beside the page."""

    path: str  # relative to the page
    picture: str | None  # data URL
    caption: str
    is_success: bool


def page_html(report: Report, folder: Path) -> str:
    """The page of the results in `folder`."""
    rates = report.table()
    exact = _exact_intervals(report)
    charts = [rate_chart(report), outcome_chart(report)]
    by_latency = results_by_latency(folder)
    return render(
        "results_page.html",
        title=f"{report.task} on {report.simulator}",
        report=report,
        facts=_facts(report),
        warnings=_warnings(report),
        notes=_notes(report),
        rates=[[*row[:4], cell, *row[4:]] for row, cell in zip(rates, exact, strict=True)],
        means=_means(report),
        charts=charts,
        maps=place_charts(report),
        failures=_failure_table(report),
        films=_films(report, folder),
        failed=[r for r in report.episodes[report.policy] if not r.success],
        most_rows=MOST_ROWS,
        history=checkpoint_chart(results_by_step(folder)),
        latency=latency_chart(by_latency),
        latencies=latency_rows(by_latency),
        published=_published(report),
        settings=json.dumps(_settings(folder), indent=2),
        versions=_versions(report),
    )


def render(template: str, **values: Any) -> str:
    """A page from a template that draws charts."""
    figures: dict[str, str] = {}

    def add(chart: Chart, name: str) -> str:
        """Draw the chart in the element `name`; returns nothing to show."""
        figures[name] = chart.figure.to_json() or ""
        return ""

    def drawings() -> str:
        """All charts as a JavaScript object."""
        parts = [f"{json.dumps(name)}:{text}" for name, text in figures.items()]
        # "</script>" in a text would end the script.
        return "{" + ",\n".join(parts).replace("</", "<\\/") + "}"

    return fill(template, add=add, drawings=drawings, **values)


def results_by_step(folder: Path) -> list[tuple[int, Rate]]:
    """(training step, success rate) of this and the other checkpoints of the run with results of
    the same task, episodes and settings, by step. Unfinished and damaged results are left out."""
    found: dict[int, Rate] = {}
    try:
        own = Evaluation.open(folder)
    except UserError:
        return []
    for other, report in reports_beside(folder):
        try:
            checkpoint = str(report["policy_provenance"]["checkpoint"])
            counts = report["policies"][other.settings["policy"]]["all"]
            rate = Rate(counts["successes"], counts["count"], counts["errors"])
        except (KeyError, TypeError):
            continue
        step = re.search(r"step_(\d+)$", checkpoint)
        is_same = other.settings | {"checkpoint": None} == own.settings | {"checkpoint": None}
        if step and rate.count and other.world == own.world and is_same:
            found[int(step[1])] = rate
    return sorted(found.items())


def _facts(report: Report) -> list[tuple[str, str]]:
    """(value, what it is)."""
    rate, states = report.rate(report.policy), report.initial_states()
    low, high = rate.interval
    facts = [
        (rate.text(), f"success of {report.policy}, 95 % interval {_range(low, high)}"),
        (str(rate.count), "episodes played"),
    ]
    if states.count:
        facts.append((f"{states.different} of {states.count}", "initial states differ"))
    facts.append((str(rate.errors), "episodes failed to run"))
    for name in report.episodes:
        if name != report.policy:
            facts.append((report.rate(name).text(), f"success of {name}"))
    return facts


def _warnings(report: Report) -> list[str]:
    domain = [f"Out of domain: {report.out_of_domain}."] if report.out_of_domain else []
    return [*domain, *report.troubles()]


def _notes(report: Report) -> list[str]:
    """The notes under the table, without those that have a section of their own."""
    return [note for note in report.notes() if not note.startswith(("Failures of", "Published"))]


def _exact_intervals(report: Report) -> list[str]:
    """A column for the table of rates: Clopper and Pearson's intervals."""
    cells = ["Clopper-Pearson"]
    for policy in report.episodes:
        for variant in (*report.variants, None):
            rate = report.rate(policy, variant)
            cells.append(_range(*rate.exact_interval) if rate.count + rate.errors else "-")
    return cells


def _means(report: Report) -> list[str]:
    lines = []
    for policy in report.episodes if len(report.variants) > 1 else ():
        if mean := report.mean_of_variants(policy):
            low, high = mean["interval_95"]
            lines.append(f"{policy} {percent(mean['rate'])} [{100 * low:.0f}, {100 * high:.0f}]")
    return lines


def _failure_table(report: Report) -> list[list[str]]:
    """Header, and how often each policy failed in each way."""
    counts = {policy: report.failures(policy) for policy in report.episodes}
    kinds = dict.fromkeys(kind for own in counts.values() for kind in own)
    if not kinds:
        return []
    rows = [["kind of failure", *counts]]
    return rows + [[kind, *(str(own.get(kind, 0)) for own in counts.values())] for kind in kinds]


def _films(report: Report, folder: Path) -> list[Film]:
    found = []
    for policy, records in report.episodes.items():
        for record in records:
            if record.video and (folder / record.video).is_file():
                picture = last_picture(folder / record.video) if len(found) < MOST_FILMS else None
                caption = f"{policy}, {record.variant}, seed {record.seed}: {_outcome(record)}"
                found.append(Film(record.video, picture, caption, record.success))
    return found


def _outcome(record: EpisodeRecord) -> str:
    if record.error:
        return "failed to run"
    return "success" if record.success else record.failure or "failure"


def _published(report: Report) -> dict[str, Any] | None:
    """The published numbers beside the policy's by the same rule of success."""
    if report.published is None:
        return None
    rate, rows = report.rate(report.policy), []
    for one in report.published["shown"]:
        own = rate.under(one["success"])
        text = f"{percent(own.successes / own.count)} [{_range(*own.interval)}]"
        rows.append([one["policy"], f"{100 * one['rate']:.1f} %", text,
                     RULE_WORDS[one["success"]], str(one["episodes"]), one["source"]])  # fmt: skip
    return {**report.published, "rows": rows}


def _settings(folder: Path) -> dict[str, Any]:
    """evaluation.json without the simulator, which has a table of its own; {} if it is gone."""
    try:
        settings = read_json(folder / FINGERPRINT)
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in settings.items() if key != "simulator"}


def _versions(report: Report) -> list[tuple[str, str]]:
    provenance = report.simulator_provenance or {}
    keys = sorted(provenance, key=lambda k: _FIRST.index(k) if k in _FIRST else len(_FIRST))
    rows = [(key.replace("_", " "), _plain(provenance[key])) for key in keys]
    return [*rows, ("page written by", f"selfflow_robotics {version('selfflow_robotics')}")]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _range(low: float, high: float) -> str:
    return f"{100 * low:.1f}-{100 * high:.1f} %"
