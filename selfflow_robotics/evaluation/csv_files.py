"""The rates and episodes of a report as CSV, for spreadsheets and pandas."""

import csv
import io
from collections.abc import Iterable

from selfflow_robotics.evaluation.places import place_of
from selfflow_robotics.evaluation.report import Rate, Report
from selfflow_robotics.evaluation.summary import Summary

_RATE = (
    *("episodes", "successes", "errors", "rate", "wilson_low", "wilson_high"),
    *("clopper_pearson_low", "clopper_pearson_high", "successes_at_any_step"),
)


def rates_csv(report: Report) -> str:
    """A row per policy and variant, and one for all variants of each policy."""
    kinds = list(dict.fromkeys(kind for name in report.episodes for kind in report.failures(name)))
    rows = []
    for policy in report.episodes:
        for variant in (*report.variants, None):
            failures = report.failures(policy, variant)
            counts = [failures.get(kind, 0) for kind in kinds]
            rate = report.rate(policy, variant)
            rows.append([policy, report.task, variant or "all", *_rate(rate), *counts])
    return _csv(["policy", "task", "variant", *_RATE, *kinds], rows)


def episodes_csv(report: Report) -> str:
    """A row per episode: how it began (`places`), and how it ended."""
    header = ["policy", "task", "variant", "seed", "start_x_m", "start_y_m", "start_of"]
    header += ["success", "success_at_any_step", "failure", "steps", "error", "video"]
    rows = []
    for records in report.episodes.values():
        for record in records:
            place = place_of(record)
            outcome = [int(record.success), int(record.success_at_any_step), record.failure or ""]
            if record.error is not None:
                outcome = ["", "", ""]
            rows.append(
                [
                    *(record.policy, record.task, record.variant, record.seed),
                    *(f"{place.x:.6g}", f"{place.y:.6g}", place.what),
                    *(*outcome, record.steps, record.error or "", record.video or ""),
                ]
            )
    return _csv(header, rows)


def summary_csv(summary: Summary) -> str:
    """A row per policy and task, and one per policy and average."""
    rows = []
    for policy in summary.reports[0].episodes:
        for report in summary.reports:
            if policy in report.episodes:
                rows.append([policy, report.task, *_rate(report.rate(policy))])
        for average in summary.averages(policy):
            low, high = average.interval
            blank = [""] * 3
            rows.append([policy, f"mean of {average.name}", *blank, average.rate, low, high])
    return _csv(["policy", "task", *_RATE], [[*row, *[""] * 9][:11] for row in rows])


def _rate(rate: Rate) -> list[float | int | str]:
    """The columns `_RATE`; no rate while there are errors or nothing was played."""
    total = rate.count + rate.errors
    value = rate.successes / rate.count if rate.count and not rate.errors else ""
    intervals = [*rate.interval, *rate.exact_interval] if total else [""] * 4
    # Rounded, since scipy's versions differ in the last digits.
    numbers = [round(v, 6) if isinstance(v, float) else v for v in (value, *intervals)]
    return [rate.count, rate.successes, rate.errors, *numbers, rate.successes_at_any_step]


def _csv(header: list[str], rows: Iterable[list]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()
