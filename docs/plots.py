"""Draw the plots of docs/results.md from the tables in that file: `python docs/plots.py`.

Needs `pip install -e '.[benchmarks]'`.
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parent
COLORS = {
    "Self-Flow": "tab:blue",
    "vanilla": "tab:orange",
    "vanilla flow matching": "tab:orange",
    "none": "tab:gray",
    "no pretraining": "tab:gray",
    "DTS": "tab:brown",
    "SRA": "tab:green",
    "REPA": "tab:red",
    "attention separation": "tab:purple",
}


def table(text: str, after: str) -> list[list[str]]:
    """Cells of the first table below the line that contains `after`, header first."""
    lines = iter(text[text.index(after) :].splitlines())
    rows = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return [rows[0], *rows[2:]]


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", cell)]


def save(figure: Figure, name: str) -> None:
    figure.tight_layout()
    figure.savefig(DOCS / "plots" / f"{name}.png", dpi=120)
    plt.close(figure)


def success(text: str) -> None:
    rows = table(text, "## Success rates")[1:]
    figure, ax = plt.subplots(figsize=(8, 3.2))
    for y, (_, policy, rate, interval) in enumerate(rows):
        hits, episodes = numbers(rate)
        low, high = numbers(interval)
        mean = 100 * hits / episodes
        color = "tab:blue" if policy.startswith("`") else "tab:gray"
        ax.errorbar(mean, y, xerr=[[mean - low], [high - mean]], fmt="o", color=color, capsize=4)
        side, align = (-2, "right") if mean > 50 else (2, "left")
        ax.text((low if mean > 50 else high) + side, y, rate, va="center", ha=align, color=color)
    ax.set_yticks(range(len(rows)), [f"{row[1].replace('`', '')}  ({row[0]})" for row in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=(-3, 103))
    ax.set_xlabel("success, %, with 95 % intervals")
    ax.grid(axis="x", alpha=0.3)
    save(figure, "success")


def world_model(text: str) -> None:
    rows = table(text, "6.2 dB above copying")[1:]
    figure, ax = plt.subplots(figsize=(6, 3.6))
    styles = {
        "mean": ("o-", "tab:blue"),
        "sample": ("s-", "tab:orange"),
        "copy": ("^--", "tab:gray"),
    }
    for start, (style, color) in styles.items():
        label, *psnr = next(row for row in rows if row[0].startswith(start))
        label = label.replace("`", "")
        ax.plot(range(1, 7), [float(cell) for cell in psnr], style, color=color, label=label)
    ax.set(xlabel="imagined frame", ylabel="PSNR, dB", title="experiment=tabletop")
    ax.grid(alpha=0.3)
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.33))
    save(figure, "world_model")


def pretraining(text: str) -> None:
    header, *rows = table(text, "## Does pretraining help")
    figure, ax = plt.subplots(figsize=(6, 3.6))
    for shift, (start, *cells) in zip((-0.2, 0, 0.2), rows, strict=True):
        for x, cell in enumerate(cells):
            mean, low, high, *seeds = numbers(cell)
            label = start if x == 0 else None
            rate_with_seeds(ax, x + shift, mean, low, high, seeds, COLORS[start], label)
    ax.set_xticks(range(len(header) - 1), header[1:])
    ax.set(ylabel="success, %", ylim=(0, 80))
    ax.legend(title="pretraining", ncols=3, loc="upper center")
    save(figure, "pretraining")


def objectives(text: str) -> None:
    rows = table(text, "## Which pretraining objective")[1:]
    figure, ax = plt.subplots(figsize=(7, 3.4))
    for x, (name, mean, interval, seeds) in enumerate(rows):
        low, high = numbers(interval)
        rate_with_seeds(ax, x, numbers(mean)[0], low, high, numbers(seeds), COLORS[name])
    ax.set_xticks(range(len(rows)), [row[0].replace(" ", "\n") for row in rows])
    ax.set(ylabel="success, %", ylim=(0, 80))
    save(figure, "objectives")


def rate_with_seeds(
    ax: Axes,
    x: float,
    mean: float,
    low: float,
    high: float,
    seeds: list[float],
    color: str,
    label: str | None = None,
) -> None:
    error = [[mean - low], [high - mean]]
    ax.errorbar(x, mean, yerr=error, fmt="o", color=color, capsize=4, label=label)
    ax.plot([x + 0.07] * len(seeds), seeds, "x", color=color, alpha=0.6)
    ax.grid(axis="y", alpha=0.3)


def probes(text: str) -> None:
    targets = ("Object's position, cm", "Object's axis, degrees", "Tool point, cm")
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), sharex=True)
    for column, target in enumerate(targets):
        for ax, t in zip(axes[:, column], ("0", "0.5"), strict=True):
            header, pixels, *layers = table(text, f"**{target}, t = {t}**")
            ax.axhline(numbers(pixels[1])[0], color="black", ls=":", label="pixels")
            curves(ax, header, layers, header[1:])
            ax.set_title(f"{target}, t = {t}", fontsize=10)
            ax.set_xticks(range(len(layers)))
    for ax in axes[1]:
        ax.set_xlabel("layer")
    for ax in axes[:, 0]:
        ax.set_ylabel("median error")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=7, loc="lower center", fontsize=9)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(DOCS / "plots/probes.png", dpi=90)
    plt.close(figure)


def class_probe(text: str) -> None:
    header, *layers = table(text, "### Labelled images")
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True)
    for ax, t in zip(axes, ("0", "0.25", "0.5"), strict=True):
        names = [name for name in header if name.endswith(f"t = {t}")]
        curves(ax, header, layers, names)
        ax.axhline(24, color="black", ls=":", label="most frequent class")
        ax.set(title=f"t = {t}", xlabel="layer", ylim=(0, 100))
    axes[0].set_ylabel("top-1 accuracy, %")
    axes[2].legend()
    save(figure, "class_probe")


def curves(ax: Axes, header: list[str], layers: list[list[str]], names: list[str]) -> None:
    """One line for each column in `names`, with its range over the seeds."""
    for name in names:
        column = header.index(name)
        mean, low, high = np.array([numbers(row[column]) for row in layers]).T
        label = name.split(",")[0]
        ax.plot(mean, "o-", ms=3, color=COLORS[label], label=label)
        ax.fill_between(range(len(layers)), low, high, color=COLORS[label], alpha=0.12, lw=0)
    ax.grid(alpha=0.3)


if __name__ == "__main__":
    results = (DOCS / "results.md").read_text()
    for draw in (success, world_model, pretraining, objectives, probes, class_probe):
        draw(results)
