"""Charts of an evaluation's results, as Plotly figures."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from selfflow_robotics.evaluation.ledger import EpisodeRecord
from selfflow_robotics.evaluation.pages.run_charts import COLORS, titled_figure
from selfflow_robotics.evaluation.places import place_of
from selfflow_robotics.evaluation.report import NOT_RECORDED, Rate, Report
from selfflow_robotics.evaluation.timing import AtLatency

SUCCESS, FAILURE, ERROR = COLORS[0], COLORS[1], "#9aa5b1"
KIND_COLORS = ("#d55e00", "#e69f00", "#cc79a7", "#8c564b", "#f0c987", "#7f6fb0", "#555555", ERROR)
SCALE = [(0.0, "#d55e00"), (0.5, "#f4f1ea"), (1.0, "#0072b2")]  # success rate 0 to 1
CELLS = 5  # per axis, if every episode has its own position
FEW_PLACES = 60  # up to so many different positions are shown one by one
ROW_PX, HEAD_PX = 24, 90


class Chart(NamedTuple):
    """A figure, its height on the page (px) and its legend, which the page draws: Plotly's own
    hides the chart on narrow screens."""

    figure: go.Figure
    height: int
    legend: tuple[tuple[str, str], ...] = ()  # (name, colour)


def rate_chart(report: Report) -> Chart:
    """The success rate of each policy and variant with Wilson's 95 % interval."""
    labels, policies = [*report.variants, "all"], list(report.episodes)
    if len(report.variants) == 1:
        labels = ["all"]
    figure = plain_figure("success rate, 95 % Wilson intervals", "%", "")
    for number, policy in enumerate(policies):
        shift = (number - (len(policies) - 1) / 2) * 0.2
        rates = [report.rate(policy, None if label == "all" else label) for label in labels]
        rows = [
            (place + shift, rate, f"{policy}, {label}")
            for place, (label, rate) in enumerate(zip(labels, rates, strict=True))
        ]
        add_rates(figure, policy, rows)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(range=[-3, 103])
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        range=[len(labels) - 0.5, -0.5],
        showgrid=False,
    )
    height = HEAD_PX + max(2 * ROW_PX, len(labels) * ROW_PX * (1 + len(policies) // 3))
    return Chart(figure, height, tuple(zip(policies, COLORS, strict=False)))


def outcome_chart(report: Report) -> Chart:
    """What became of the episodes: success and each kind of failure, in percent of the episodes."""
    rows: list[tuple[str, str, str | None]] = []
    for policy in report.episodes:
        named = [*report.variants, None] if policy == report.policy else [None]
        if len(report.variants) == 1:
            named = [None]
        rows += [(f"{policy}, {v}" if v else policy, policy, v) for v in named]
    kinds = list(dict.fromkeys(k for name in report.episodes for k in report.failures(name)))
    totals = []
    for _, policy, variant in rows:
        rate = report.rate(policy, variant)
        totals.append(max(1, rate.count + rate.errors))
    parts = {"success": [report.rate(p, v).successes for _, p, v in rows]}
    for kind in kinds:
        parts[kind] = [report.failures(p, v).get(kind, 0) for _, p, v in rows]
    parts["failed to run"] = [report.rate(p, v).errors for _, p, v in rows]
    figure = plain_figure("outcomes", "% of the episodes", "")
    colors, legend = iter(KIND_COLORS * 3), []
    for name, counts in parts.items():
        color = SUCCESS if name == "success" else next(colors)
        if name in ("failed to run", NOT_RECORDED):
            color = ERROR
        if not any(counts):
            continue
        legend.append((name, color))
        figure.add_bar(
            x=[100 * count / total for count, total in zip(counts, totals, strict=True)],
            y=list(range(len(rows))),
            orientation="h",
            name=name,
            marker_color=color,
            customdata=counts,
            hovertemplate="%{customdata} episodes: " + name + "<extra></extra>",
        )
    figure.update_layout(barmode="stack", hovermode="closest")
    figure.update_xaxes(range=[0, 100])
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[label for label, _, _ in rows],
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
    )
    return Chart(figure, HEAD_PX + max(2, len(rows)) * ROW_PX, tuple(legend))


def place_charts(report: Report) -> list[Chart]:
    """Maps of the evaluated policy's success over the episodes' initial positions: seen from above
    as the robot looks, one per variant and, for several variants, one for all of them."""
    records = [r for r in report.episodes[report.policy] if r.error is None]
    groups = {v: [r for r in records if r.variant == v] for v in report.variants}
    groups = {variant: own for variant, own in groups.items() if own}
    if len(groups) > 1:
        groups = {"all": records, **groups}
    if not records:
        return []
    places = np.array([place_of(r)[:2] for r in records])
    low, high = places.min(0), places.max(0)
    what = place_of(records[0]).what
    room = 0.04 + 0.05 * (high - low)
    span = (low - room, high + room)
    return [_map(variant, own, span, what) for variant, own in groups.items()]


def checkpoint_chart(points: Sequence[tuple[int, Rate]]) -> Chart | None:
    """Success over training steps, with Wilson's 95 % interval; None for fewer than two."""
    rows = [
        (step, rate.successes / rate.count, rate.interval, f"{rate.successes} of {rate.count}")
        for step, rate in points
    ]
    return _curve("success by training step", "step", rows, "step %{x:,}")


def latency_chart(results: Sequence[AtLatency]) -> Chart | None:
    """Success over latency, with Wilson's 95 % interval; None for fewer than two."""
    rows = [
        (one.latency_ms, one.rate, one.interval, f"{one.successes} of {one.episodes}")
        for one in results
    ]
    return _curve("success by latency", "latency (ms)", rows, "%{x:.4~g} ms")


def _curve(
    title: str, x: str, rows: Sequence[tuple[float, float, tuple, str]], hover: str
) -> Chart | None:
    """A line through rows of (x, rate, interval, text); None for fewer than two."""
    if len(rows) < 2:
        return None
    figure = plain_figure(title, x, "%")
    figure.add_scatter(
        x=[place for place, *_ in rows],
        y=[100 * rate for _, rate, *_ in rows],
        mode="lines+markers",
        error_y=_bars([(rate, interval) for _, rate, interval, _ in rows]),
        text=[text for *_, text in rows],
        hovertemplate=hover + ": %{y:.1f} % (%{text})<extra></extra>",
    )
    figure.update_yaxes(range=[-3, 103])
    figure.update_layout(hovermode="closest")
    return Chart(figure, 300)


def add_rates(figure: go.Figure, name: str, rows: Sequence[tuple[float, Rate, str]]) -> None:
    """A marker with Wilson's 95 % interval for each (height, rate, text) with episodes."""
    rows = [row for row in rows if row[1].count + row[1].errors]
    shares = [rate.successes / (rate.count + rate.errors) for _, rate, _ in rows]
    pairs = zip(shares, (rate.interval for _, rate, _ in rows), strict=True)
    figure.add_scatter(
        x=[100 * share for share in shares],
        y=[height for height, *_ in rows],
        name=name,
        mode="markers",
        marker={"size": 9},
        error_x=_bars(list(pairs)) | {"thickness": 1.5},
        text=[f"{text}: {rate.successes} of {rate.count}" for _, rate, text in rows],
        hovertemplate="%{text}<br>%{x:.1f} %<extra></extra>",
    )


def _bars(rates: Sequence[tuple[float, tuple]]) -> dict:
    """Error bars of (rate, interval), in percent."""
    return {
        "type": "data",
        "array": [100 * (high - rate) for rate, (_, high) in rates],
        "arrayminus": [100 * (rate - low) for rate, (low, _) in rates],
    }


def _map(title: str, records: Sequence[EpisodeRecord], span: tuple, what: str) -> Chart:
    by_place: dict[tuple[float, float], list[EpisodeRecord]] = defaultdict(list)
    for record in records:
        place = place_of(record)
        by_place[round(place.x, 4), round(place.y, 4)].append(record)
    name = f"{title}: {sum(r.success for r in records)} of {len(records)}"
    figure = plain_figure(name, f"{what}'s y (m)", "x (m)")
    if len(by_place) <= FEW_PLACES and 2 * len(by_place) <= len(records):
        _add_places(figure, by_place)
    elif title == "all" and len(records) > 2 * CELLS**2:
        _add_cells(figure, records, span)
    else:
        _add_episodes(figure, records)
    # As the robot looks at it: it stands at positive x, and y grows to its right.
    (x0, y0), (x1, y1) = span
    figure.update_xaxes(range=[y0, y1], showgrid=False, hoverformat=".3f", nticks=5)
    figure.update_yaxes(range=[x1, x0], showgrid=False, hoverformat=".3f", nticks=5)
    figure.update_layout(hovermode="closest", margin={"r": 12, "b": 44, "l": 56, "t": 34})
    return Chart(figure, 330)


def _add_places(figure: go.Figure, by_place: dict) -> None:
    """Positions with several episodes each: a marker with their success rate."""
    shares = [sum(r.success for r in own) / len(own) for own in by_place.values()]
    counts = [f"{sum(r.success for r in own)}/{len(own)}" for own in by_place.values()]
    figure.add_scatter(
        x=[y for _, y in by_place],
        y=[x for x, _ in by_place],
        mode="markers+text",
        text=counts,
        textfont={"size": 10, "color": ["#222" if 0.2 < s < 0.8 else "white" for s in shares]},
        marker={
            **{"size": 32, "symbol": "square", "color": shares, "colorscale": SCALE},
            **{"cmin": 0, "cmax": 1, "line": {"width": 1, "color": "#bbb"}},
        },
        hovertemplate="x %{y:.3f} m, y %{x:.3f} m: %{text}<extra></extra>",
    )


def _add_cells(figure: go.Figure, records: Sequence[EpisodeRecord], span: tuple) -> None:
    """The success rate in each cell of a grid over the positions."""
    places = np.array([place_of(r)[:2] for r in records])
    edges = [np.linspace(low, high, CELLS + 1) for low, high in zip(*span, strict=True)]
    wins = np.array([float(r.success) for r in records])
    sums, counts = (
        np.histogram2d(places[:, 0], places[:, 1], edges, weights=w)[0] for w in (wins, None)
    )
    shares = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    texts = [
        [f"{int(s)}/{int(n)}" if n else "" for s, n in zip(*row, strict=True)]
        for row in zip(sums, counts, strict=True)
    ]
    middles = [(e[1:] + e[:-1]) / 2 for e in edges]
    figure.add_heatmap(
        x=middles[1],
        y=middles[0],
        z=shares,
        text=texts,
        texttemplate="%{text}",
        colorscale=SCALE,
        zmin=0,
        zmax=1,
        showscale=False,
        hovertemplate="x %{y:.2f} m, y %{x:.2f} m: %{text}<extra></extra>",
    )


def _add_episodes(figure: go.Figure, records: Sequence[EpisodeRecord]) -> None:
    """A marker per episode."""
    for won, color, symbol in ((True, SUCCESS, "circle"), (False, FAILURE, "x")):
        own = [r for r in records if r.success == won]
        places = [place_of(r) for r in own]
        figure.add_scatter(
            x=[p.y for p in places],
            y=[p.x for p in places],
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 8, "opacity": 0.75},
            text=[f"seed {r.seed}, {r.variant}: {r.failure or _outcome(r)}" for r in own],
            hovertemplate="%{text}<br>x %{y:.3f} m, y %{x:.3f} m<extra></extra>",
        )


def _outcome(record: EpisodeRecord) -> str:
    return "success" if record.success else "failure"


def plain_figure(title: str, x: str, y: str) -> go.Figure:
    """Without a legend of its own, with titles for both axes."""
    return titled_figure(title, x, y).update_layout(margin_t=34)
