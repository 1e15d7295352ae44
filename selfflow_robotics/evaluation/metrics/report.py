"""The results of measured samples, as JSON, text and Markdown."""

from typing import Any

from selfflow_robotics.evaluation.metrics.conventions import differences, published_rows
from selfflow_robotics.evaluation.metrics.sources import Source
from selfflow_robotics.evaluation.statistics import share_text
from selfflow_robotics.evaluation.tables import markdown_table, text_table

SHARES = ("precision", "recall")
NOTES = {
    "half": "A Frechet distance is biased by about c / N: the column 'half' is the mean over both "
    "halves of the samples, and 'N -> inf' is 2 value - half, without that bias. Only compare "
    "distances of equally many samples.",
    "interval": "Brackets: 95 % intervals, for other images of the same set.",
    "deviation": "+-: standard deviation over parts of 5 000 samples.",
}


def report(
    samples: Source,
    reference: Source | None,
    rows: list[dict[str, Any]],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """What metrics.json holds. Each row gets `differences` from ADM's protocol."""
    rows = [row | {"differences": differences(row, reference)} for row in rows]
    return {
        "samples": str(samples),
        "reference": None if reference is None else str(reference),
        "rows": rows,
        "published": published_rows(rows, reference),
        "notes": samples.remarks + (reference.remarks if reference else []),
        "settings": settings,
    }


def to_text(result: dict[str, Any]) -> str:
    """For the terminal."""
    return "\n".join([*_heading(result), "", text_table(_lines(result)), "", *_notes(result)])


def to_markdown(result: dict[str, Any]) -> str:
    """For a page."""
    notes = "\n".join(f"- {note}" for note in _notes(result))
    heading = "\n".join(f"- {line}" for line in _heading(result))
    return f"# Generation metrics\n\n{heading}\n\n{markdown_table(_lines(result))}\n\n{notes}\n"


def _heading(result: dict[str, Any]) -> list[str]:
    lines = [f"samples: {result['samples']}"]
    if result["reference"]:
        lines.append(f"reference: {result['reference']}")
    return lines


def _lines(result: dict[str, Any]) -> list[list[str]]:
    rows = result["rows"]
    with_halves = any(row.get("half") is not None for row in rows)
    header = ["metric", "value", *(["half", "N -> inf"] if with_halves else []), "N", "reference"]
    lines = [[*header, "features"]]
    for row in rows:
        halves = [_number(row.get(key)) for key in ("half", "extrapolated")] if with_halves else []
        counts = [str(row["num_samples"]), _count(row)]
        lines.append([row["label"], _value(row), *halves, *counts, row["features"]])
    for name, values in result["published"].items():
        for metric, value in values.items():
            label = next(row["label"] for row in rows if row["metric"] == metric)
            shown = f"{100 * value:.0f} %" if metric in SHARES else f"{value:g}"
            lines.append([label, shown, *[""] * (len(header) - 2), f"published: {name}"])
    return lines


def _value(row: dict[str, Any]) -> str:
    if row["metric"] in SHARES:
        return share_text(row["value"], row["interval"])
    if row["interval"]:
        low, high = row["interval"]
        return f"{row['value']:.2f} [{low:.2f}, {high:.2f}]"
    if row.get("deviation"):
        return f"{row['value']:.2f} +- {row['deviation']:.2f}"
    return _number(row["value"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _count(row: dict[str, Any]) -> str:
    if row["metric"] in ("inception_score", "clip_score"):
        return ""
    return "?" if row["num_reference"] is None else str(row["num_reference"])


def _notes(result: dict[str, Any]) -> list[str]:
    rows = result["rows"]
    notes = list(result["notes"])
    notes += [text for key, text in NOTES.items() if any(row.get(key) for row in rows)]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        for reason in row["differences"]:
            reasons.setdefault(reason, []).append(row["label"])
    notes += [
        f"Not comparable with published numbers ({', '.join(labels)}): {reason}."
        for reason, labels in reasons.items()
    ]
    return notes
