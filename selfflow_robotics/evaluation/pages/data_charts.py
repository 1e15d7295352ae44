"""Charts of a robot data set, as Plotly figures."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from selfflow_robotics.data.rlds.checks import ACTION_NAMES, gripper_changes
from selfflow_robotics.data.rlds.survey import Episode
from selfflow_robotics.evaluation.pages.run_charts import COLORS, titled_figure

BINS = 60
LEAST_ROWS = 6  # it leaves room for so many
MOST_BARS = 15  # instructions in the chart; the table has all
BEFORE, AFTER = 3, 8  # steps around a gripper command
_LONGEST_LABEL = 44


def instruction_chart(rows: Sequence[dict]) -> go.Figure:
    """Episodes per instruction, the most frequent on top; rows as in `data_report`."""
    shown = list(rows[:MOST_BARS])[::-1]
    labels = [_short(row["instruction"]) or "(empty)" for row in shown]
    title = (
        f"the {MOST_BARS} most frequent instructions" if len(rows) > MOST_BARS else "instructions"
    )
    figure = titled_figure(title, "episodes", "")
    # By position, since shortened labels may be equal.
    places = list(range(len(shown)))
    outcomes = 0
    for name, color in (("success", COLORS[2]), ("failure", COLORS[1]), ("unknown", "#9aa5b1")):
        counts = [
            row["episodes"] - row["success"] - row["failure"] if name == "unknown" else row[name]
            for row in shown
        ]
        if any(counts):
            outcomes += 1
            figure.add_bar(
                x=counts,
                y=places,
                orientation="h",
                name=name,
                marker_color=color,
                customdata=[row["instruction"] for row in shown],
                hovertemplate=f"%{{customdata}}<br>%{{x}} {name}<extra></extra>",
            )
    figure.update_layout(barmode="stack", hovermode="closest", showlegend=outcomes > 1)
    figure.update_yaxes(tickvals=places, ticktext=labels, showgrid=False)
    # A few bars are not thicker than many.
    figure.update_yaxes(range=[len(shown) - max(len(shown), LEAST_ROWS) - 0.5, len(shown) - 0.5])
    return figure


def length_chart(lengths: np.ndarray) -> go.Figure:
    """Histogram of episode lengths."""
    figure = titled_figure("episode length", "steps", "episodes")
    _add_histogram(figure, lengths, COLORS[0], is_whole=True)
    return figure


def action_charts(actions: np.ndarray) -> list[go.Figure]:
    """A histogram for each dimension of policy vectors [N, 7], with lines at 1 % and 99 %."""
    figures = []
    for place, name in enumerate(ACTION_NAMES):
        unit = "m" if place < 3 else "rad" if place < 6 else "1 is open"
        figure = titled_figure(name, unit, "steps")
        values = actions[:, place]
        _add_histogram(figure, values, COLORS[0])
        if place < 6:
            for quantile in np.quantile(values, [0.01, 0.99]):
                figure.add_vline(x=float(quantile), line={"color": COLORS[1], "dash": "dot"})
            # Most steps barely use an axis, so a linear scale would hide the rest.
            figure.update_yaxes(type="log", dtick=1, tickformat="~s")
        figures.append(figure)
    return figures


def gripper_charts(stored: dict[str, float], episodes: Sequence[Episode]) -> list[go.Figure]:
    """Shares of the stored commands, and the recorded closedness around commands to close and to
    open: their mean, with a band from the 10 % to the 90 % quantile."""
    shares = titled_figure("stored gripper commands", "", "% of the steps")
    shares.add_bar(x=list(stored), y=[100 * v for v in stored.values()], marker_color=COLORS[0])
    shares.update_xaxes(showgrid=False)
    shares.update_layout(hovermode="closest")
    follow = titled_figure(
        "recorded closedness around a command", "steps after the command", "closed"
    )
    steps = np.arange(-BEFORE, AFTER + 1)
    for name, closes, color in (("close", True, COLORS[1]), ("open", False, COLORS[0])):
        traces = _traces(episodes, closes)
        if not len(traces):
            continue
        reached = np.isfinite(traces).any(axis=0)  # an episode may end right after a command
        traces, x = traces[:, reached], steps[reached]
        low, high = np.nanquantile(traces, [0.1, 0.9], axis=0)
        follow.add_scatter(
            x=[*x, *x[::-1]],
            y=[*high, *low[::-1]],
            fill="toself",
            fillcolor=color,
            opacity=0.18,
            line_width=0,
            hoverinfo="skip",
            showlegend=False,
        )
        label = f"told to {name} ({len(traces)})"
        mean = np.nanmean(traces, axis=0)
        follow.add_scatter(x=x, y=mean, name=label, mode="lines+markers", line_color=color)
    if follow.data:
        follow.add_vline(x=0, line={"color": "#777", "dash": "dot"})
        follow.update_yaxes(range=[-0.05, 1.05])
        follow.update_layout(showlegend=True)
    return [shares, *([follow] if follow.data else [])]


def _traces(episodes: Sequence[Episode], closes: bool) -> np.ndarray:
    """Closedness [M, BEFORE + 1 + AFTER] around M commands; NaN outside an episode."""
    rows = []
    for episode in episodes:
        closedness = episode.proprio[:, 7]
        for step in gripper_changes(episode):
            if (episode.actions[step, 6] < 0.5) == closes:
                row = np.full(BEFORE + 1 + AFTER, np.nan)
                start, end = max(0, step - BEFORE), min(len(episode), step + AFTER + 1)
                row[start - step + BEFORE : end - step + BEFORE] = closedness[start:end]
                rows.append(row)
    return np.array(rows).reshape(-1, BEFORE + 1 + AFTER)


def _add_histogram(
    figure: go.Figure, values: np.ndarray, color: str, is_whole: bool = False
) -> None:
    # Counted here: a page with all values would be as large as the data.
    low, high = float(values.min()), float(values.max())
    if is_whole:
        width = max(1, -(-int(high - low + 1) // BINS))
        edges = np.arange(low - 0.5, high + width + 0.5, width)
    else:
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts, _ = np.histogram(values, edges)
    figure.add_bar(
        x=(edges[1:] + edges[:-1]) / 2,
        y=counts,
        width=np.diff(edges),
        marker={"color": color, "line_width": 0},
        hovertemplate="%{x:.4~g}: %{y}<extra></extra>",
    )
    figure.update_layout(hovermode="closest")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
