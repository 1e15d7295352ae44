"""The class-probe table, as text and Markdown."""

from typing import Any

from selfflow_robotics.evaluation.probing.report import Rows
from selfflow_robotics.evaluation.statistics import share_text
from selfflow_robotics.evaluation.tables import markdown_table, text_table

NOTES = (
    "Cells: top-1 accuracy on test images with 95 % Wilson interval.",
    "t = 1 is noise. Layer 0 is the embedded latents, layer k the hidden tokens after k blocks, "
    "each averaged over the image; the network gets the null label.",
    "The noised latents are the network's input, concatenated.",
)


def lines_of(rows: Rows) -> list[list[str]]:
    """Header and lines: one line per source, one column per t."""
    times = sorted({row["t"] for row in rows if row["t"] is not None})
    cells: dict[str, dict[float | None, str]] = {}
    for row in rows:
        cells.setdefault(_label(row), {})[row["t"]] = _cell(row)
    lines = [["", *(f"t = {t:g}" for t in times)]]
    # Values that do not depend on t are repeated in every column.
    return lines + [
        [label, *(by_time.get(t, by_time.get(None, "")) for t in times)]
        for label, by_time in cells.items()
    ]


def to_text(rows: Rows) -> str:
    """For the terminal."""
    return "\n".join([text_table(lines_of(rows)), "", *NOTES])


def to_markdown(rows: Rows, title: str) -> str:
    """For a page."""
    notes = "\n".join(f"- {note}" for note in NOTES)
    return f"# {title}\n\n{markdown_table(lines_of(rows))}\n\n{notes}\n"


def _label(row: dict[str, Any]) -> str:
    if row["source"] == "features":
        return f"layer {row['layer']}"
    return "noised latents" if row["source"] == "latents" else row["source"]


def _cell(row: dict[str, Any]) -> str:
    return share_text(row["accuracy"], row["interval"])
