"""One HTML page of a training run: its curves, pictures, settings, and what looks wrong.

The page is one file that needs nothing else: charts are inline SVG, pictures are embedded, and it
loads nothing from anywhere. It is made of what a run folder holds (metrics.jsonl, config.yaml,
run.json, samples/), so a run can be looked at while it goes on. A metric that has no place of its
own below is shown all the same, under "Other".
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.results import write_whole
from selfflow_robotics.evaluation.run_page_charts import heat_map, line_chart
from selfflow_robotics.evaluation.run_page_warnings import run_warnings, values_of
from selfflow_robotics.training.checkpoint import latest_checkpoint

NUM_SAMPLES = 12
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:1120px;margin:2em auto;padding:0 1em;color:#222}
h2{border-bottom:1px solid #ccc;margin-top:2em}
.charts{display:flex;flex-wrap:wrap;gap:14px}
figure{margin:0;width:520px;max-width:100%}figure p{margin:0 0 0 58px;font-size:12px;color:#555}
svg{width:100%;font:11px system-ui,sans-serif;fill:#555}svg .title{font-size:13px;fill:#222}
.grid{stroke:#ddd}polyline{stroke-width:1.5}
.warning{background:#fdecea;border-left:4px solid #c0392b;padding:.4em .8em;margin:.4em 0}
.fine{background:#eaf6ec;border-left:4px solid #2e8b57;padding:.4em .8em}
pre{background:#f6f6f6;padding:1em;overflow:auto}
.samples img{max-width:100%;width:250px;image-rendering:pixelated}
"""


@dataclass
class Run:
    """What a run folder holds."""

    folder: Path
    records: list[dict[str, Any]]  # lines of metrics.jsonl
    config: str  # config.yaml as it stands
    about: dict[str, Any]  # run.json
    samples: list[Path]  # the newest pictures, oldest first


def read_run(folder: Path) -> Run:
    """Raises UserError where there is no metrics.jsonl with a whole line. A torn line, as a crash
    or a run that is writing leaves it, is passed over."""
    log = folder / "metrics.jsonl"
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is no training run: it has no metrics.jsonl; give --run RUN"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{log} cannot be read as text ({error}); give --run RUN") from error
    records = [r for line in lines if type((r := _parsed(line)).get("step")) in (int, float)]
    if not records:
        raise UserError(f"{log} has no whole line yet")
    return Run(
        folder,
        records,
        _text(folder / "config.yaml"),
        _parsed(_text(folder / "run.json")),
        sorted(path for path in folder.glob("samples/*.png") if path.is_file())[-NUM_SAMPLES:],
    )


def write_page(run: Run, path: Path) -> None:
    """Write the page, whole or not at all. Raises UserError where that is impossible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page_html(run))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose output=...") from error


def page_html(run: Run) -> str:
    """The page as text."""
    title = escape(run.folder.resolve().name)
    body = "".join(
        f'<section id="{name}"><h2>{heading}</h2>{content or "<p>not logged</p>"}</section>'
        for name, heading, content in _sections(run)
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>{_summary(run)}{body}</body></html>\n"
    )


def _sections(run: Run) -> Iterator[tuple[str, str, str]]:
    """(id, heading, content) of each section."""
    yield "warnings", "Warnings", _warnings(run)
    for name, heading, charts in _chart_sections(_Charts(run.records)):
        drawn = "".join(charts)
        yield name, heading, f'<div class="charts">{drawn}</div>' if drawn else ""
    yield "samples", "Samples", _samples(run)
    yield "config", "Configuration", f"<pre>{escape(run.config)}</pre>" if run.config else ""


def _chart_sections(charts: "_Charts") -> Iterator[tuple[str, str, list[str]]]:
    yield "loss", "Loss", [charts.by_role("loss"), charts.by_role("flow_loss")]
    yield "timesteps", "Loss by timestep (1 is noise)", charts.heat_maps("loss_by_t/", log=True)
    yield "groups", "Loss by noise group", charts.groups("loss_by_group/")
    cosine = charts.by_role("teacher_student_cosine")
    by_timestep = charts.heat_maps("cosine_by_t", log=False)
    by_layer = charts.heat_maps("cosine_by_layer/", log=False, rows="layer")
    yield "teacher", "Teacher and student", [cosine, *by_timestep, *by_layer]
    features = ("norm", "spread_batch", "spread_tokens", "rank")
    yield "features", "Features", [charts.student_and_teacher(key) for key in features]
    yield "mask", "Effective mask ratio", [charts.single("effective_mask_ratio")]
    yield "optimiser", "Optimiser", [charts.single("grad_norm"), charts.single("lr_factor")]
    speed = ("tokens_per_s", "step_s", "data_wait_s")
    yield "speed", "Speed", [charts.single(key) for key in speed]
    yield "other", "Other", charts.rest()


class _Charts:
    """Charts of the logged metrics, and which of them have been drawn."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self._records = records
        self._keys = sorted({key for record in records for key in record})
        self._drawn = {"step"}

    def single(self, key: str) -> str:
        self._drawn.add(key)
        return line_chart(key, {key: values_of(self._records, key)})

    def by_role(self, key: str) -> str:
        """One line for each row of the role table."""
        self._drawn.add(key)
        roles = sorted({str(record.get("role", key)) for record in self._records})
        return line_chart(
            key,
            {
                role: values_of([r for r in self._records if str(r.get("role", key)) == role], key)
                for role in roles
            },
        )

    def student_and_teacher(self, key: str) -> str:
        series = {}
        for who in ("student", "teacher"):
            self._drawn.add(f"{who}/{key}")
            series[who] = values_of(self._records, f"{who}/{key}")
        return line_chart(key, series)

    def heat_maps(self, prefix: str, *, log: bool, rows: str = "timestep") -> list[str]:
        """A map for each list of means by timestep, or by layer, whose key begins with `prefix`."""
        made = []
        for key in self._lists(prefix):
            values = self._rows(key)
            labels = [f"{(i + 0.5) / len(values):.2f}" for i in range(len(values))]
            if rows == "layer":
                labels = [str(i + 1) for i in range(len(values))]
            made.append(heat_map(key, values, labels, log=log))
        return made

    def groups(self, prefix: str) -> list[str]:
        """For each slot the loss of tokens that took t, and of those that took s."""
        return [
            line_chart(key, dict(zip("ts", self._rows(key), strict=False)))
            for key in self._lists(prefix)
        ]

    def rest(self) -> list[str]:
        """Every number that was logged and not drawn yet."""
        left = [key for key in self._keys if key not in self._drawn]
        return [self.single(key) for key in left]

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


def _summary(run: Run) -> str:
    checkpoint = latest_checkpoint(run.folder)
    facts = {
        "kind": run.about.get("kind", "unknown"),
        "created": run.about.get("created", "unknown"),
        "last logged step": run.records[-1]["step"],
        "last checkpoint": checkpoint.name if checkpoint else "none",
    }
    return "<p>" + ", ".join(f"{k}: {escape(str(v))}" for k, v in facts.items()) + "</p>"


def _warnings(run: Run) -> str:
    found = run_warnings(run.records)
    if not found:
        return '<p class="fine">nothing looks wrong</p>'
    return "".join(f'<p class="warning">{escape(warning)}</p>' for warning in found)


def _samples(run: Run) -> str:
    pictures = []
    for path in run.samples:
        data = base64.b64encode(path.read_bytes()).decode()
        pictures.append(
            f'<figure><img alt="{escape(path.stem)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(path.stem)}</figcaption></figure>"
        )
    return f'<div class="charts samples">{"".join(pictures)}</div>' if pictures else ""


def _text(path: Path) -> str:
    """What a file of the run holds; empty where it is missing or no text."""
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
