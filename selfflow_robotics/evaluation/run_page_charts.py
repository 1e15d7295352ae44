"""Line charts and heat maps as inline SVG: no library, no script, nothing from outside the page."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]  # (step, value)

WIDTH, HEIGHT = 520, 200
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 22, 20
COLUMNS = 150  # a line has at most this many points: the means of as many stretches of steps
HEAT_COLUMNS = 60
COLORS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8d5fb5", "#c77d0a", "#3a3a3a", "#1aa6a6", "#9c6b4e")


def line_chart(title: str, series: Mapping[str, Points]) -> str:
    """One line for each of `series`; values that are not finite leave a gap. "" without any."""
    lines = {name: thin(points, COLUMNS) for name, points in series.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    low_x, high_x = _range(x for points in lines.values() for x, _ in points)
    low, high = _range(y for points in lines.values() for _, y in points)
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> str:
        right = LEFT + across * (x - low_x) / (high_x - low_x)
        return f"{right:.1f},{TOP + down * (high - y) / (high - low):.1f}"

    parts = []
    for share in (0.0, 0.5, 1.0):
        y = TOP + down * share
        label = _number(high - (high - low) * share)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
    for (name, points), color in zip(lines.items(), _colors(len(lines)), strict=True):
        path = " ".join(place(x, y) for x, y in points)
        dot = "" if len(points) > 1 else ' stroke-linecap="round" stroke-width="5"'
        path = path if len(points) > 1 else f"{path} {path}"
        parts.append(
            f'<polyline fill="none" stroke="{color}"{dot} points="{path}">'
            f"<title>{escape(name)}</title></polyline>"
        )
    legend = " ".join(
        f'<span style="color:{color}">&#9632; {escape(name)}</span>'
        for name, color in zip(lines, _colors(len(lines)), strict=True)
    )
    legend = f"<p>{legend}</p>" if len(lines) > 1 or next(iter(lines)) != title else ""
    return _figure(title, [*parts, *_steps(low_x, high_x)], legend)


def heat_map(title: str, rows: Sequence[Points], labels: Sequence[str], *, log: bool) -> str:
    """Steps from left to right, one row of cells for each of `rows`, the first at the bottom.

    Dark is high; the scale is logarithmic with `log` (values above 0). "" without any value.
    """
    steps = [x for points in rows for x, _ in points]
    if not steps:
        return ""
    low_x, high_x = _range(steps)
    cells = {}
    for row, points in enumerate(rows):
        for column, values in _stretches(points, low_x, high_x, HEAT_COLUMNS).items():
            value = sum(values) / len(values)
            if not log or value > 0:
                cells[row, column] = math.log(value) if log else value
    if not cells:
        return ""
    low, high = _range(cells.values())
    across, down = (WIDTH - LEFT - RIGHT) / HEAT_COLUMNS, (HEIGHT - TOP - BOTTOM) / len(rows)
    parts = []
    for (row, column), value in cells.items():
        light = 95 - 75 * (value - low) / (high - low)
        shown = _number(math.exp(value) if log else value)
        x, y = LEFT + column * across, TOP + (len(rows) - 1 - row) * down
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{across + 0.3:.1f}" height="{down + 0.3:.1f}" '
            f'fill="hsl(215,60%,{light:.0f}%)"><title>{shown}</title></rect>'
        )
    for row, label in enumerate(labels):
        y = TOP + (len(rows) - 0.5 - row) * down + 4
        parts.append(f'<text x="{LEFT - 6}" y="{y:.1f}" text-anchor="end">{escape(label)}</text>')
    ends = [_number(math.exp(value) if log else value) for value in (low, high)]
    note = f"<p>light {ends[0]}, dark {ends[1]}{', logarithmic' if log else ''}</p>"
    return _figure(title, [*parts, *_steps(low_x, high_x)], note)


def thin(points: Points, columns: int) -> list[tuple[float, float]]:
    """At most `columns` points: means over equal stretches of steps. Not finite values drop out."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if len(finite) <= columns:
        return finite
    low, high = _range(x for x, _ in finite)
    width = (high - low) / columns
    stretches = _stretches(finite, low, high, columns)
    return [(low + (i + 0.5) * width, sum(v) / len(v)) for i, v in sorted(stretches.items())]


def _stretches(points: Points, low: float, high: float, columns: int) -> dict[int, list[float]]:
    """The finite values of each of `columns` equal stretches of [low, high]."""
    stretches: dict[int, list[float]] = {}
    for x, y in points:
        if math.isfinite(y):
            index = min(int((x - low) / (high - low) * columns), columns - 1)
            stretches.setdefault(index, []).append(y)
    return stretches


def _range(values) -> tuple[float, float]:
    """The least and the greatest value, apart in any case."""
    values = list(values)
    low, high = min(values), max(values)
    if high > low:
        return low, high
    pad = abs(low) / 10 or 1.0
    return low - pad, high + pad


def _colors(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]


def _number(value: float) -> str:
    return f"{value:.3g}"


def _steps(low: float, high: float) -> list[str]:
    y = HEIGHT - 4
    return [
        f'<text x="{LEFT}" y="{y}">step {low:.0f}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{y}" text-anchor="end">{high:.0f}</text>',
    ]


def _figure(title: str, parts: list[str], note: str) -> str:
    drawing = "".join(parts)
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>'
        f'<text class="title" x="{LEFT}" y="14">{escape(title)}</text>{drawing}</svg>'
        f"{note}</figure>"
    )
