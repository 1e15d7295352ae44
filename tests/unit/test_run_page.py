"""The page of a run: every section, nothing from outside, and warnings that fire when they must."""

import json
import math
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.pages.run_charts import heat_map, line_chart, thin
from selfflow_robotics.evaluation.pages.run_page import NUM_SAMPLES, page_html, read_run
from selfflow_robotics.evaluation.pages.run_warnings import run_warnings

ROOT = Path(__file__).parents[2]
SECTIONS = [
    "warnings",
    "loss",
    "timesteps",
    "groups",
    "teacher",
    "features",
    "mask",
    "optimiser",
    "speed",
    "other",
    "samples",
    "config",
]


def record(step: int, **changes) -> dict:
    """A line of a healthy run, as training writes it."""
    loss = math.exp(-step / 50)
    line = {
        "step": step,
        "loss": loss - 0.5,
        "role": ("image", "clip")[step % 2],
        "flow_loss": loss,
        "effective_mask_ratio": 0.25,
        "loss_by_t/first_frame": [None, *(loss + i / 10 for i in range(9))],
        "loss_by_group/first_frame": [loss, 2 * loss],
        "teacher_student_cosine": 0.9,
        "cosine_by_t": [0.8 + i / 100 for i in range(10)],
        "cosine_by_layer/t=0.6": [0.9, 0.8, 0.7],
        "grad_norm": 1.0,
        "lr_factor": 0.5,
        "tokens_per_s": 1000.0,
        "step_s": 0.5,
        "data_wait_s": 0.01,
        "held_out_policy_loss": 0.3,
    }
    for who in ("student", "teacher"):
        line |= {f"{who}/norm": 10.0, f"{who}/rank": 20.0}
        line |= {f"{who}/spread_batch": 0.5, f"{who}/spread_tokens": 0.6}
    return line | changes


def records(count: int = 60, **changes) -> list[dict]:
    return [record(step, **changes) for step in range(count)]


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "runs" / "<odd> & name"
    (folder / "samples").mkdir(parents=True)
    lines = [json.dumps(line) for line in records()]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 60, "lo']))
    (folder / "config.yaml").write_text("name: '<script>'\nseed: 7\n")
    (folder / "run.json").write_text('{"kind": "pretrain", "created": "2026-01-01T00:00:00"}')
    for step in range(NUM_SAMPLES + 2):
        picture = Image.fromarray(np.full((4, 4, 3), step, np.uint8))
        picture.save(folder / "samples" / f"step_{step:07d}.png")
    return folder


def figures(page: str) -> dict[str, tuple[list[dict], dict]]:
    """(traces, layout) of each chart of a page, by its title."""
    plots = re.findall(r'Plotly\.newPlot\(\s*"\w+",\s*(.*)', page)
    found = {}
    for plot in plots:
        traces, end = json.JSONDecoder().raw_decode(plot)
        layout, _ = json.JSONDecoder().raw_decode(plot[end:].lstrip(", "))
        found[layout["title"]["text"]] = (traces, layout)
    assert len(found) == len(plots)
    return found


def test_the_page_holds_every_section_and_nothing_from_outside(folder):
    page = page_html(read_run(folder))
    assert re.findall(r'<section id="(\w+)">', page) == SECTIONS
    assert "not logged" not in page
    assert page.count(get_plotlyjs()) == 1
    ours = page.replace(get_plotlyjs(), "")
    for outside in ("http:", "https:", "<script src", "<link", "@import", "url(", "href"):
        assert outside not in ours
    assert re.findall(r'src="(.{22})', ours) == ["data:image/png;base64,"] * NUM_SAMPLES
    assert "step_0000013" in page
    assert "step_0000001<" not in page
    assert "seed: 7" in page
    assert "nothing looks wrong" in page
    assert "last logged step: 59" in page


def test_names_from_the_run_cannot_become_markup(folder):
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('\n{"step": 61, "</script><b>": 1, "role": "<i>", "loss": 1}')
    page = page_html(read_run(folder)).replace(get_plotlyjs(), "")
    assert "&lt;odd&gt; &amp; name" in page
    assert "name: &#39;&lt;script&gt;" in page
    for markup in ("<odd>", "<b>", "<i>", "'<script>'"):
        assert markup not in page
    assert "</script><b>" in figures(page)


def test_every_metric_is_drawn_once(folder):
    page = page_html(read_run(folder))
    drawn = figures(page)
    assert drawn.keys() == record(0).keys() - {"step", "role"}
    roles = [trace["name"] for trace in drawn["flow_loss"][0]]
    assert roles == ["clip", "image"]
    for key in ("tokens_per_s", "held_out_policy_loss"):
        assert [trace["name"] for trace in drawn[key][0]] == [key]
    assert [trace["type"] for trace in drawn["cosine_by_layer/t=0.6"][0]] == ["heatmap"]


def test_evaluations_during_training_are_one_chart_over_the_evaluated_steps(folder):
    page = page_html(read_run(folder))
    assert 'id="success"' not in page
    for step, rate in ((10, 0.2), (20, None), (30, 0.8)):
        rates = {"success": rate, "low": 0.1, "high": 0.9, "episodes": 20, "errors": 0}
        found = {f"evaluation/pick_coke_can/{name}": value for name, value in rates.items()}
        with (folder / "metrics.jsonl").open("a") as log:
            log.write("\n" + json.dumps({"step": 60 + step, "evaluation/step": step, **found}))
    page = page_html(read_run(folder))
    [(traces, _)] = [plot for title, plot in figures(page).items() if "success" in title]
    assert [trace["name"] for trace in traces] == ["pick_coke_can"]
    assert len(traces[0]["x"]) == 2 or traces[0]["x"]["shape"] == "2"
    assert not any(title.startswith("evaluation") for title in figures(page))
    assert "last logged step: 59" in page


def test_a_young_run_of_another_objective_has_a_page_too(tmp_path):
    line = {"step": 0, "loss": 2.0, "role": "policy", "grad_norm": 1.0, "something_new": 3}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    page = page_html(read_run(tmp_path))
    assert re.findall(r'<section id="(\w+)">', page) == SECTIONS
    assert figures(page).keys() == {"loss", "grad_norm", "something_new"}
    assert "not logged" in page


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a training run"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step"')
    with pytest.raises(UserError, match="no complete line"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('[1]\n{"step": "x"}\n{"step": null}\n')
    with pytest.raises(UserError, match="no complete line"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as text"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot be read as text"):
        read_run(tmp_path)


def test_what_is_damaged_beside_the_metrics_is_left_out(folder):
    for name in ("config.yaml", "run.json"):
        (folder / name).write_bytes(b"\xff\xfe\x00")
    (folder / "samples" / "step_9999999.png").mkdir()
    page = page_html(read_run(folder))
    assert "kind: unknown" in page
    assert "step_0000013" in page


def test_a_healthy_run_gives_no_warning():
    assert run_warnings(records()) == []
    assert run_warnings(records(1)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher_student_cosine": 0.9995}, "cosine is 0.99950"),
        ({"teacher/spread_batch": 1e-4}, "teacher's features do not differ between samples"),
        ({"student/spread_tokens": 1e-4}, "student's features do not differ between places"),
        ({"student/rank": 1.01}, "student's features have effective rank 1.01"),
        ({"data_wait_s": 0.15}, "30% of the time is spent waiting for data"),
        ({"grad_norm": None}, "grad_norm is not finite, first at step 0"),
        ({"flow_loss": 0.7}, "flow_loss of image is not falling: 0.7 in the first fifth"),
    ],
)
def test_each_planted_fault_is_named(changes, words):
    found = run_warnings(records(**changes))
    assert any(words in warning for warning in found), found


def test_a_late_collapse_is_seen_and_an_early_one_forgiven():
    late = [record(step, **{"teacher/rank": 1.0 if step > 50 else 20.0}) for step in range(60)]
    assert len(run_warnings(late)) == 1
    early = [record(step, **{"teacher/rank": 1.0 if step < 10 else 20.0}) for step in range(60)]
    assert run_warnings(early) == []


def test_long_lines_are_thinned_to_means():
    points = np.stack([np.arange(1000.0), np.arange(1000.0)], 1)
    thinned = thin(points, np.linspace(0, 999, 101))
    assert thinned.shape == (100, 2)
    assert thinned[0, 1] == pytest.approx(4.5)
    gap = np.concatenate([points[:300], points[-300:]])
    assert thin(gap, np.linspace(0, 999, 101)).shape == (60, 2)


def test_values_that_are_not_finite_are_left_out():
    chart = line_chart("a", {"a": [(0.0, math.nan), (1.0, 2.0)], "b": [(0.0, math.inf)]})
    assert [(line.name, *line.x, *line.y) for line in chart.data] == [("a", 1.0, 2.0)]
    assert line_chart("a", {"a": [(0.0, math.nan)]}) is None
    assert heat_map("a", [], [], unit="layer") is None
    assert heat_map("a", [[], [(0.0, math.nan)]], [1, 2], unit="layer") is None
    assert heat_map("a", [[(0.0, -1.0)]], [1], unit="layer", log=True) is None


@pytest.mark.parametrize(("values", "scale"), [((0.1, 10.0), "log"), ((0.0, 10.0), None)])
def test_only_values_above_zero_get_a_logarithmic_scale(values, scale):
    chart = line_chart("loss", {"loss": list(enumerate(values))}, log=True)
    assert chart.layout.yaxis.type == scale


def test_a_heat_map_has_no_gaps_where_steps_are_irregular():
    steps = [0, 1, 50, 51, 52, 900]
    chart = heat_map(
        "a",
        [[(s, 1.0) for s in steps], [(s, 100.0) for s in steps]],
        [0.25, 0.75],
        unit="timestep",
        log=True,
    )
    cells = chart.data[0]
    np.testing.assert_allclose(cells.customdata, [[1.0] * 6, [100.0] * 6])
    np.testing.assert_allclose(cells.z, [[0.0] * 6, [2.0] * 6])
    assert list(cells.x[:-1]) == steps
    assert list(cells.y) == [0.25, 0.75]
    long = heat_map("a", [[(s, float(s)) for s in range(6000)]], [1], unit="layer")
    assert np.shape(long.data[0].z) == (1, 60)
    assert long.data[0].z[0][0] == pytest.approx(49.5)


def test_the_command_finds_the_newest_run(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder.parents[1])
    main = runpy.run_path(str(ROOT / "eval/run_page.py"), run_name="imported")["main"]
    main([])
    assert "60 records, 12 images: runs/<odd> & name/page.html" in capsys.readouterr().out
    main(["--run", str(folder), "output=other.html"])
    assert Path("other.html").read_text() == (folder / "page.html").read_text()
    with pytest.raises(SystemExit):
        main(["runs_dir=nowhere"])
    assert "no run in nowhere/ has logged anything" in capsys.readouterr().err
