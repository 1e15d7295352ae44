"""Line charts and heat maps of logged metrics, as Plotly figures."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

Points = Sequence[tuple[float, float]]  # (step, value)

COLUMNS = 300  # longer lines are averaged over this many intervals of steps
HEAT_COLUMNS = 60
FEW = 30  # up to this many points are drawn with markers
# Okabe and Ito's palette for colour-blind readers, with the pale colours last.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
AXIS = {"gridcolor": "#e3e3e3", "linecolor": "#777", "ticks": "outside", "zeroline": False}
STYLE = go.layout.Template(
    layout={
        "colorway": COLORS,
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#222"},
        "title": {"x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 8}},
        "title_font_size": 14,
        "margin": {"l": 64, "r": 12, "t": 54, "b": 44},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "xaxis": AXIS | {"title": {"text": "step", "standoff": 6}, "hoverformat": ",.0f"},
        "yaxis": AXIS | {"title": {"standoff": 6}, "hoverformat": ".4~g", "automargin": True},
        "hovermode": "x unified",
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
    }
)


def line_chart(
    title: str, series: Mapping[str, Points], *, unit: str = "", log: bool = False
) -> go.Figure | None:
    """One line for each of `series`, of the finite values; None if there are none.

    `unit` labels the values; `log` makes their axis logarithmic if all are above 0.
    """
    lines = {name: _finite(points) for name, points in series.items()}
    lines = {name: points for name, points in lines.items() if len(points)}
    if not lines:
        return None
    every = np.concatenate(list(lines.values()))
    edges = np.linspace(every[:, 0].min(), every[:, 0].max(), COLUMNS + 1)
    figure = _figure(title, unit)
    for name, points in lines.items():
        x, y = thin(points, edges).T
        mode = "lines" if len(x) > FEW else "lines+markers"
        # In float32, so that the means of a constant are equal despite rounding.
        figure.add_scatter(x=x, y=y.astype(np.float32), name=name, mode=mode)
    figure.update_layout(showlegend=len(lines) > 1 or title not in lines)
    if log and every[:, 1].min() > 0:
        figure.update_yaxes(type="log", minorloglabels="complete")
    return figure


def rates_chart(title: str, series: Mapping[str, Sequence[list[float]]]) -> go.Figure | None:
    """One line for each of `series`, of (step, rate, low, high) in [0, 1]; None without any."""
    if not series:
        return None
    figure = _figure(title, "%")
    for name, points in series.items():
        step, *rates = np.array(sorted(points), np.float64).T
        rate, low, high = (100 * values for values in rates)
        bars = {"type": "data", "array": high - rate, "arrayminus": rate - low, "thickness": 1}
        figure.add_scatter(x=step, y=rate, name=name, error_y=bars, mode="lines+markers")
    figure.update_layout(showlegend=True)
    return figure.update_yaxes(range=[-3, 103])


def heat_map(
    title: str, rows: Sequence[Points], places: Sequence[float], *, unit: str, log: bool = False
) -> go.Figure | None:
    """Steps from left to right, one row of cells at each of `places`, in `unit`.

    `log` makes the colour scale logarithmic (values above 0 only). None if there are no values.
    """
    parts = [_finite(points) for points in rows]
    row = np.repeat(np.arange(len(rows)), [len(part) for part in parts])
    step, value = np.concatenate(parts).T if parts else np.empty((2, 0))
    if log:
        row, step, value = row[value > 0], step[value > 0], np.log10(value[value > 0])
    if not len(value):
        return None
    # Each column has equally many logged steps, since roles are drawn at irregular steps.
    steps = np.unique(step)
    starts = [part[0] for part in np.array_split(steps, min(HEAT_COLUMNS, len(steps)))]
    end = steps[-1] + max(1.0, (steps[-1] - steps[0]) / len(steps))
    bins = (np.arange(len(rows) + 1) - 0.5, np.array([*starts, end]))
    sums, counts = (np.histogram2d(row, step, bins, weights=w)[0] for w in (value, None))
    cells = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    ticks = np.linspace(np.nanmin(cells), np.nanmax(cells), 5)
    values, labels = (10**cells, 10**ticks) if log else (cells, ticks)
    figure = _figure(title, unit)
    figure.add_heatmap(
        x=bins[1],
        y=places,
        z=cells,
        customdata=values,
        colorscale="Viridis",
        colorbar={"tickvals": ticks, "ticktext": [f"{label:.3g}" for label in labels]},
        hovertemplate=f"step %{{x:,.0f}}<br>{unit} %{{y}}<br>%{{customdata:.4~g}}<extra></extra>",
    )
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    return figure


def thin(points: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Average points [N, 2] within each interval of `edges`."""
    if len(points) < len(edges):
        return points
    counts, _ = np.histogram(points[:, 0], edges)
    sums = [np.histogram(points[:, 0], edges, weights=column)[0] for column in points.T]
    return (np.stack(sums, 1) / np.maximum(counts, 1)[:, None])[counts > 0]


def _finite(points: Points) -> np.ndarray:
    """[N, 2] float64."""
    array = np.array(points, np.float64).reshape(-1, 2)
    return array[np.isfinite(array).all(1)]


def titled_figure(title: str, x: str, y: str) -> go.Figure:
    """Without a legend, with titles for both axes."""
    figure = go.Figure(layout={"template": STYLE, "title_text": title, "showlegend": False})
    figure.update_xaxes(title_text=x, hoverformat=None)
    return figure.update_yaxes(title_text=y)


def _figure(title: str, unit: str) -> go.Figure:
    figure = go.Figure(layout={"template": STYLE, "title_text": title})
    return figure.update_yaxes(title_text=unit)
