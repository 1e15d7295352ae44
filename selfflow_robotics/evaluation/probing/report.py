"""The tables of linear probes, as text and Markdown."""

from collections.abc import Sequence
from typing import Any

from selfflow_robotics.evaluation.probing.frames import TARGETS
from selfflow_robotics.evaluation.tables import markdown_table, text_table

Rows = Sequence[dict[str, Any]]

NOTES = (
    "Cells: median error on test episodes, then R^2 against predicting the training mean with "
    "its 95 % bootstrap interval over episodes.",
    "t = 1 is noise. Layer 0 is the embedded image, layer k the hidden tokens after k blocks; "
    "pixels are the network's input, with the same noise.",
)


def target_tables(rows: Rows) -> list[tuple[str, list[list[str]]]]:
    """(title, header and lines) for each target of `rows`: a line per source, a column per t."""
    tables = []
    for name, target in TARGETS.items():
        own = [row for row in rows if row["target"] == name]
        if not own:
            continue
        times = sorted({row["t"] for row in own if row["t"] is not None})
        lines = [["", *(f"t = {t:g}" for t in times)]]
        lines += [[_label(r), *[_cell(r)] * len(times)] for r in own if r["source"] == "mean"]
        sources = dict.fromkeys(_label(row) for row in own if row["t"] is not None)
        for label in sources:
            by_time = {row["t"]: _cell(row) for row in own if _label(row) == label}
            lines.append([label, *(by_time.get(t, "") for t in times)])
        tables.append((f"{name} ({target.unit}): {target.meaning}", lines))
    return tables


def to_text(rows: Rows) -> str:
    """For the terminal."""
    blocks = [f"{title}\n{text_table(lines)}" for title, lines in target_tables(rows)]
    return "\n\n".join([*blocks, "\n".join(NOTES)])


def to_markdown(rows: Rows, title: str) -> str:
    """For a page."""
    blocks = [f"# {title}"]
    for name, lines in target_tables(rows):
        blocks.append(f"## {name}\n\n{markdown_table(lines)}")
    return "\n\n".join([*blocks, "\n".join(f"- {note}" for note in NOTES)]) + "\n"


def _label(row: dict[str, Any]) -> str:
    return f"layer {row['layer']}" if row["source"] == "features" else row["source"]


def _cell(row: dict[str, Any]) -> str:
    low, high = row["r2_interval"]
    return f"{row['median_error']:.2f}  {row['r2']:.2f} [{low:.2f}, {high:.2f}]"
