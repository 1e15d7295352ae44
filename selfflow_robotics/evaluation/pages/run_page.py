"""Plot a training run as one HTML page: curves, samples, settings and warnings.

The page is self-contained: Plotly's script and the images are embedded. It is made from the files
of the run folder (metrics.jsonl, config.yaml, run.json, samples/), so it also works during
training. Metrics without a section of their own appear under "Other".
"""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.during_training import STEP
from selfflow_robotics.evaluation.pages.run_charts import heat_map, line_chart, rates_chart
from selfflow_robotics.evaluation.pages.run_warnings import run_warnings, values_of
from selfflow_robotics.evaluation.pages.template import fill
from selfflow_robotics.training.checkpoint import latest_checkpoint
from selfflow_robotics.training.trackers import EVALUATION

NUM_SAMPLES = 12
TIMESTEP, LAYER = "timestep (1 is noise)", "layer"
UNITS = {
    "norm": "mean length",
    "spread_batch": "share of the RMS",
    "spread_tokens": "share of the RMS",
    "rank": "effective rank",
    "effective_mask_ratio": "share of the tokens",
    "teacher_student_cosine": "cosine",
    "grad_norm": "norm before clipping",
    "lr_factor": "share of the peak rate",
    "tokens_per_s": "tokens per second",
    "samples_per_s": "samples per second",
    "mfu": "share of the peak rate",
    "step_s": "seconds per step",
    "data_wait_s": "seconds per step",
}
SPEED = ("tokens_per_s", "samples_per_s", "mfu", "step_s", "data_wait_s")


@dataclass
class Run:
    """The contents of a run folder."""

    folder: Path
    records: list[dict[str, Any]]  # lines of metrics.jsonl
    config: str  # text of config.yaml
    about: dict[str, Any]  # run.json
    samples: list[Path]  # the newest images, oldest first

    @property
    def steps(self) -> int:
        """`train.steps`; 0 if config.yaml does not say."""
        found = re.search(r"^train:\n(?:  .*\n)*?  steps: (\d+)$", self.config, re.MULTILINE)
        return int(found[1]) if found else 0


def read_run(folder: Path) -> Run:
    """Read a run folder. Raises UserError if metrics.jsonl is missing or has no complete line.
    Incomplete lines, from a crash or a run that is still writing, are skipped."""
    log = folder / "metrics.jsonl"
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not a training run: it has no metrics.jsonl; pass --run RUN"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{log} cannot be read as text ({error}); pass --run RUN") from error
    records = [r for line in lines if type((r := _parsed(line)).get("step")) in (int, float)]
    if not records:
        raise UserError(f"{log} has no complete line yet; wait for the first logged step")
    return Run(
        folder,
        records,
        _text(folder / "config.yaml"),
        _parsed(_text(folder / "run.json")),
        sorted(path for path in folder.glob("samples/*.png") if path.is_file())[-NUM_SAMPLES:],
    )


def page_html(run: Run) -> str:
    """The page's HTML."""
    checkpoint = latest_checkpoint(run.folder)
    return fill(
        "run_page.html",
        title=run.folder.resolve().name,
        facts={
            "kind": run.about.get("kind", "unknown"),
            "created": run.about.get("created", "unknown"),
            "last logged step": next(
                (r["step"] for r in reversed(run.records) if "loss" in r), run.records[-1]["step"]
            ),
            "last checkpoint": checkpoint.name if checkpoint else "none",
        },
        warnings=run_warnings(run.records, run.steps),
        sections=_sections(_Charts(run.records)),
        config={"displayModeBar": False, "responsive": True},
        samples={path.stem: base64.b64encode(path.read_bytes()).decode() for path in run.samples},
        configuration=run.config,
    )


def _sections(charts: "_Charts") -> Iterator[tuple[str, str, list[go.Figure]]]:
    """(id, heading, charts) of each section."""
    if success := charts.success():
        yield "success", "Success during training", success
    yield "loss", "Loss", charts.by_role("loss", "flow_loss")
    yield "timesteps", "Loss by timestep", charts.heat_maps("loss_by_t/", TIMESTEP, log=True)
    yield "groups", "Loss by noise group", charts.groups("loss_by_group/")
    cosine = charts.by_role("teacher_student_cosine")
    by_timestep = charts.heat_maps("cosine_by_t", TIMESTEP)
    by_layer = charts.heat_maps("cosine_by_layer/", LAYER)
    yield "teacher", "Teacher and student", [*cosine, *by_timestep, *by_layer]
    features = ("norm", "spread_batch", "spread_tokens", "rank")
    both = [f"{who}/{key}" for key in features for who in ("student", "teacher")]
    yield "features", "Features", charts.by_role(*both)
    yield "mask", "Effective mask ratio", charts.by_role("effective_mask_ratio")
    yield "optimiser", "Optimiser", charts.by_role("grad_norm") + charts.single("lr_factor")
    yield "speed", "Speed", charts.single(*SPEED)
    yield "other", "Other", charts.rest()


class _Charts:
    """Charts of the logged metrics, and which of them have been drawn."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self._records = records
        self._keys = sorted({key for record in records for key in record})
        self._drawn = {"step", "role"}

    def by_role(self, *keys: str) -> list[go.Figure]:
        """A chart for each logged key in `keys`, with one line per role."""
        return self._lines(keys, [str(record.get("role", "")) for record in self._records])

    def single(self, *keys: str) -> list[go.Figure]:
        """A chart with one line for each logged key in `keys`."""
        return self._lines(keys, [""] * len(self._records))

    def success(self) -> list[go.Figure]:
        """A chart of the success rates of evaluated checkpoints, with one line per task."""
        found = [record for record in self._records if STEP in record]
        self._drawn.update(key for key in self._keys if key.startswith(EVALUATION))
        rates: dict[str, list[list[float]]] = {}
        for record in found:
            for key in (key for key in record if key.endswith("/success")):
                place, task = key.removesuffix("success"), key.split("/")[1]
                names = (STEP, key, f"{place}low", f"{place}high")
                rate = [float(record[n]) for n in names if type(record.get(n)) in (int, float)]
                if len(rate) == len(names):
                    rates.setdefault(task, []).append(rate)
        chart = rates_chart("success of the moving average, 95 % intervals", rates)
        return [chart] if chart else []

    def heat_maps(self, prefix: str, unit: str, *, log: bool = False) -> list[go.Figure]:
        """A heat map for each list of means, by timestep or layer, whose key begins with
        `prefix`."""
        charts = []
        for key in self._lists(prefix):
            rows = self._rows(key)
            places = [i + 1 if unit == LAYER else (i + 0.5) / len(rows) for i in range(len(rows))]
            charts.append(heat_map(key, rows, places, unit=unit, log=log))
        return [chart for chart in charts if chart]

    def groups(self, prefix: str) -> list[go.Figure]:
        """A chart per slot: the loss of tokens at timestep t, and at timestep s."""
        groups = ("timestep t", "timestep s")
        charts = [
            line_chart(key, dict(zip(groups, self._rows(key), strict=False)), log=True)
            for key in self._lists(prefix)
        ]
        return [chart for chart in charts if chart]

    def rest(self) -> list[go.Figure]:
        """A chart for each logged number that has not been drawn yet."""
        return self.single(*(key for key in self._keys if key not in self._drawn))

    def _lines(self, keys: Sequence[str], names: Sequence[str]) -> list[go.Figure]:
        """`names`: the line of each record in a chart; "": the line is named after the key."""
        charts = []
        for key in keys:
            self._drawn.add(key)
            series: dict[str, list[tuple[float, float]]] = {}
            for name, record in zip(names, self._records, strict=True):
                series.setdefault(name or key, []).extend(values_of([record], key))
            log = "loss" in key or key == "grad_norm"
            unit = UNITS.get(key.rpartition("/")[2], "")
            charts.append(line_chart(key, dict(sorted(series.items())), unit=unit, log=log))
        return [chart for chart in charts if chart]

    def _lists(self, prefix: str) -> list[str]:
        found = [key for key in self._keys if key.startswith(prefix)]
        self._drawn.update(found)
        return found

    def _rows(self, key: str) -> list[list[tuple[float, float]]]:
        """(step, value) of each place of a logged list."""
        logged = [(r["step"], r[key]) for r in self._records if isinstance(r.get(key), list)]
        size = max((len(values) for _, values in logged), default=0)
        return [
            [(s, v[i]) for s, v in logged if i < len(v) and v[i] is not None] for i in range(size)
        ]


def _text(path: Path) -> str:
    """The text of a file; empty if it is missing or not text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _parsed(text: str) -> dict[str, Any]:
    """A JSON object, or {} for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
