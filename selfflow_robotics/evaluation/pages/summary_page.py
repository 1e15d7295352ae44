"""The results of several tasks as one HTML page, with links to the pages of the tasks."""

from collections.abc import Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

from selfflow_robotics.evaluation.pages.results_charts import (
    HEAD_PX,
    ROW_PX,
    Chart,
    add_rates,
    plain_figure,
)
from selfflow_robotics.evaluation.pages.results_page import render
from selfflow_robotics.evaluation.pages.run_charts import COLORS
from selfflow_robotics.evaluation.published import Published, published
from selfflow_robotics.evaluation.report import Report, percent
from selfflow_robotics.evaluation.summary import AVERAGES, Cell, Summary


def summary_html(summary: Summary, folder: Path, results: Sequence[Path]) -> str:
    """The page of the summary in `folder`; `results` are the folders of its tasks, in order."""
    troubles = [trouble for report in summary.reports for trouble in report.troubles()]
    links = [
        (report.task, Path(relpath(home, folder)).as_posix() + "/report.html")
        for report, home in zip(summary.reports, results, strict=True)
    ]
    failures = [["task", "failures of " + summary.policy]]
    for report in summary.reports:
        counts = report.failures(summary.policy)
        failures.append([report.task, ", ".join(f"{n} {kind}" for kind, n in counts.items())])
    return render(
        "summary_page.html",
        title=summary.title(),
        policy=summary.policy,
        warnings=troubles,
        rates=summary.table(),
        notes=summary.notes(),
        links=links,
        chart=_chart(summary),
        failures=failures,
        published=published_table(summary),
    )


def published_table(summary: Summary) -> dict[str, Any] | None:
    """The policy's rates and averages with the published ones that stand beside all of its tasks'
    results, and the tasks for which none does; None if there are none at all."""
    reports = [r for r in summary.reports if r.published and r.published["shown"]]
    if not reports:
        return None
    numbers = [one for one in published() if one.protocol == reports[0].protocol]
    shown: dict[tuple[str, str], None] = {}
    for report in reports:
        assert report.published is not None
        for one in report.published["shown"]:
            shown.setdefault((one["policy"], one["source"]))
    averages = [one for one in summary.averages(summary.policy) if one.name in AVERAGES]
    columns = [report.task for report in reports]
    own = [*(_own_rate(summary.policy, report) for report in reports)]
    own += [percent(average.rate) for average in averages]
    rows = [[f"{summary.policy} (here)", *own]]
    for policy, source in shown:
        cells = {n.column: n for n in numbers if (n.policy, n.source) == (policy, source)}
        values = [_text(_rate_of(cells, [((column, None),)])) for column in columns]
        values += [_text(_rate_of(cells, AVERAGES[one.name])) for one in averages]
        rows.append([policy, *values])
    sources = "; ".join(dict.fromkeys(source for _, source in shown))
    lacking = [r.task for r in summary.reports if r not in reports]
    heads = [one.name.partition(":")[0] for one in averages]
    return {"rows": [["policy", *columns, *heads], *rows], "sources": sources, "lacking": lacking}


def _own_rate(policy: str, report: Report) -> str:
    """By the same rule of success as the published numbers beside it."""
    assert report.published is not None
    rate = report.rate(policy).under(report.published["shown"][0]["success"])
    return percent(rate.successes / rate.count)


def _rate_of(cells: dict[str, Published], groups: Sequence[Sequence[Cell]]) -> float | None:
    """The mean over groups of the means over their cells; None if one was not published."""
    means = []
    for group in groups:
        found = [cells.get(_column(cell)) for cell in group]
        if None in found:
            return None
        means.append(sum(one.rate for one in found if one) / len(found))
    return sum(means) / len(means)


def _column(cell: Cell) -> str:
    task, variant = cell
    task = "move_near" if task == "move_near_v0" else task
    return task if variant is None else task.replace("_", f"_{variant}_", 1)


def _text(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f} %"


def _chart(summary: Summary) -> Chart:
    """The success rate of each task, and of the baselines."""
    figure = plain_figure("success rate", "%", "")
    names = [report.task for report in summary.reports]
    for policy in summary.reports[0].episodes:
        rows = [
            (place, report.rate(policy), policy)
            for place, report in enumerate(summary.reports)
            if policy in report.episodes
        ]
        add_rates(figure, policy, rows)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(range=[-3, 103])
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5]
    )
    legend = tuple(zip(summary.reports[0].episodes, COLORS, strict=False))
    return Chart(figure, HEAD_PX + 2 * ROW_PX * len(names), legend)
