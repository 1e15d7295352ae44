"""The page of a run: every section, nothing from outside, and warnings that fire when they must."""

import json
import math
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.run_page import NUM_SAMPLES, page_html, read_run
from selfflow_robotics.evaluation.run_page_charts import heat_map, line_chart, thin
from selfflow_robotics.evaluation.run_page_warnings import run_warnings

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


def test_the_page_holds_every_section_and_nothing_from_outside(folder):
    page = page_html(read_run(folder))
    assert re.findall(r'<section id="(\w+)">', page) == SECTIONS
    assert "not logged" not in page
    for outside in ("http:", "https:", "<script", "<link", "@import", "url(", "src=/", "href"):
        assert outside not in page
    assert re.findall(r'src="(.{22})', page) == ["data:image/png;base64,"] * NUM_SAMPLES
    assert "step_0000013" in page
    assert "step_0000001<" not in page
    assert "seed: 7" in page
    assert "nothing looks wrong" in page
    assert "last logged step: 59" in page


def test_every_drawing_is_well_formed_and_every_metric_is_drawn(folder):
    page = page_html(read_run(folder))
    drawings = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page)]
    titles = {drawing.findtext("title") for drawing in drawings}
    logged = {key.removeprefix("student/").removeprefix("teacher/") for key in record(0)}
    assert titles == logged - {"step", "role"}
    for drawing in drawings:
        numbers = re.findall(r"[\d.]+,[\d.]+", ElementTree.tostring(drawing, encoding="unicode"))
        assert all(0 <= float(x) <= 520 for pair in numbers for x in pair.split(","))


def test_a_young_run_of_another_objective_has_a_page_too(tmp_path):
    line = {"step": 0, "loss": 2.0, "role": "policy", "grad_norm": 1.0, "something_new": 3}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    page = page_html(read_run(tmp_path))
    assert re.findall(r'<section id="(\w+)">', page) == SECTIONS
    assert "<title>something_new</title>" in page
    assert "not logged" in page


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no training run"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step"')
    with pytest.raises(UserError, match="no whole line"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('[1]\n{"step": "x"}\n{"step": null}\n')
    with pytest.raises(UserError, match="no whole line"):
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


def test_long_lines_are_thinned_to_means_and_gaps_left_out():
    points = [(float(step), float(step)) for step in range(1000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert thinned[0][1] == pytest.approx(4.5)
    assert thin([(0.0, math.nan), (1.0, 2.0)], 10) == [(1.0, 2.0)]
    assert line_chart("a", {"a": []}) == heat_map("a", [[]], ["0"], log=True) == ""


def test_the_command_finds_the_newest_run(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder.parents[1])
    main = runpy.run_path(str(ROOT / "eval/run_page.py"), run_name="imported")["main"]
    main([])
    assert "60 records, 12 pictures: runs/<odd> & name/page.html" in capsys.readouterr().out
    main(["--run", str(folder), "output=other.html"])
    assert Path("other.html").read_text() == (folder / "page.html").read_text()
    with pytest.raises(SystemExit):
        main(["runs_dir=nowhere"])
    assert "no run in nowhere/ has logged anything" in capsys.readouterr().err
