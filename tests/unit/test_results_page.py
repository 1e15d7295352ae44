"""The page and spreadsheets of an evaluation, and writing them anew."""

import csv
import json
import re
import runpy
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from selfflow_robotics.envs.tasks.catalog import TASKS
from selfflow_robotics.evaluation.csv_files import rates_csv
from selfflow_robotics.evaluation.ledger import EpisodeRecord, Ledger
from selfflow_robotics.evaluation.pages import template
from selfflow_robotics.evaluation.pages.films import last_picture
from selfflow_robotics.evaluation.pages.results_charts import (
    checkpoint_chart,
    outcome_chart,
    place_charts,
)
from selfflow_robotics.evaluation.pages.results_page import page_html, results_by_step
from selfflow_robotics.evaluation.pages.summary_page import published_table
from selfflow_robotics.evaluation.places import place_of
from selfflow_robotics.evaluation.published import beside_result
from selfflow_robotics.evaluation.report import Rate, Report
from selfflow_robotics.evaluation.summary import Summary
from selfflow_robotics.evaluation.verifying.verify import find_results, verify
from selfflow_robotics.evaluation.video import write_video
from selfflow_robotics.training.checkpoint import save_checkpoint
from tests.evaluations import write_results, write_summary

ROOT = Path(__file__).parents[2]
REAL = {"dataset": "fractal20220817_data"}


class _Links(HTMLParser):
    """What a page loads or links to."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "poster")]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "rt1"
    tensors = {"w": torch.ones(3)}
    save_checkpoint(root / "checkpoints", 5, {"model": tensors, "teacher": tensors}, {"roles": []})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template, "get_plotlyjs", lambda: "PLOTLY")
        results = [write_results(root, "pick_coke_can"), write_results(root, "move_near")]
        write_summary(root, results)
    return root


@pytest.fixture
def root(evaluated, tmp_path, monkeypatch):
    monkeypatch.setattr(template, "get_plotlyjs", lambda: "PLOTLY")
    shutil.copytree(evaluated, tmp_path / "rt1")
    return tmp_path / "rt1"


def _pick(root):
    [folder] = root.glob("eval/tabletop-pick_coke_can-grid-*")
    return folder


def test_a_page_needs_nothing_but_its_own_folder(evaluated):
    pages = sorted(evaluated.rglob("*.html"))
    assert [page.name for page in pages].count("report.html") == 2
    for page in pages:
        text = page.read_text()
        assert text.count("PLOTLY") == 1
        for link in _Links(text).found:
            assert link.startswith("data:") or (page.parent / link).exists(), link


def test_the_page_has_the_reports_numbers(evaluated):
    page = (_pick(evaluated) / "report.html").read_text()
    report = json.loads((_pick(evaluated) / "report.json").read_text())
    rate = report["policies"]["network"]["all"]
    assert f"<b>{100 * rate['rate']:.0f} %</b>" in page
    assert "<b>12 of 12</b>" in page
    low, high = rate["clopper_pearson_95"]
    assert f"{100 * low:.1f}-{100 * high:.1f} %" in page
    assert "never moved" in page
    assert page.count("<figure>") == 4  # the films, though they cannot be decoded
    for name in ("Where it succeeds", "replan_steps", "mujoco", "eval/verify.py"):
        assert name in page


def _report(policy="network", outcomes="1101", task="pick_coke_can", **more):
    records = [
        EpisodeRecord(
            *(policy, task, TASKS[task].variants[index % 2], index),
            success=outcome == "1",
            error="crash" if outcome == "e" else None,
            failure="fell off" if outcome == "0" else None,
        )
        for index, outcome in enumerate(outcomes)
    ]
    return Report(task, "SIMPLER", "random", 0, TASKS[task].variants, {policy: records}, **more)


def test_what_others_wrote_cannot_leave_its_place(tmp_path):
    evil = "</script><script>alert(1)</script>"
    report = _report(evil, remarks=(evil,))
    page = page_html(replace(report, out_of_domain=evil), tmp_path)
    assert "alert(1)</script>" not in page
    assert page.count("<script>") == 2


def test_counts_of_failures():
    report = _report(outcomes="1e00")
    assert report.failures("network") == {"fell off": 2}
    assert report.failures("network", "standing") == {"fell off": 1}
    assert report.to_json()["failures"]["network"]["all"] == {"fell off": 2}
    old = replace(report.episodes["network"][2], failure=None)
    assert replace(report, episodes={"network": [old]}).failures("network") == {"not recorded": 1}
    chart = outcome_chart(report)
    assert [name for name, _ in chart.legend] == ["success", "fell off", "failed to run"]
    last = {bar.name: bar.customdata[-1] for bar in chart.figure.data}
    assert last == {"success": 1, "fell off": 2, "failed to run": 1}


def test_an_episode_begins_where_its_seed_says():
    grid = EpisodeRecord("p", "pick_coke_can", "standing", 3, {"object_xy": [-0.2, 0.1]})
    assert place_of(grid) == (-0.2, 0.1, "object")
    drawn = place_of(replace(grid, options={}))
    assert -0.35 <= drawn.x <= -0.12
    assert drawn == place_of(replace(grid, options={"robot_variant": "base"}))
    stand = EpisodeRecord("p", "open_drawer", "top", 3, {"stand": "a1"})
    assert place_of(stand) == (0.765, -0.182, "robot")


@pytest.mark.parametrize(
    ("options", "count", "kind"),
    [
        (lambda n: {"object_xy": [-0.2, [0.1, 0.2][n % 2]]}, 8, "3/4"),
        (lambda n: {}, 60, "heatmap"),
        (lambda n: {}, 10, "markers"),
    ],
)
def test_the_map_suits_the_positions(options, count, kind):
    records = [
        EpisodeRecord("p", "pick_coke_can", "standing", n, options(n), success=n >= 2)
        for n in range(count)
    ]
    variants = ("standing", "horizontal")
    records.append(replace(records[0], variant="horizontal"))
    report = Report("pick_coke_can", "SIMPLER", "random", 0, variants, {"p": records})
    charts = place_charts(report)
    assert [chart.figure.layout.title.text for chart in charts] == [
        f"all: {count - 2} of {count + 1}",
        f"standing: {count - 2} of {count}",
        "horizontal: 0 of 1",
    ]
    [data, *_] = charts[0].figure.data
    if kind == "3/4":
        assert sorted(charts[1].figure.data[0].text) == ["3/4", "3/4"]
    elif kind == "heatmap":
        assert data.type == "heatmap"
        counted = [cell.split("/") for row in data.text for cell in row if cell]
        assert sum(int(wins) for wins, _ in counted) == count - 2
        assert sum(int(total) for _, total in counted) == count + 1
    else:
        assert sum(len(trace.x) for trace in charts[0].figure.data) == count + 1


def test_success_over_checkpoints(root, tmp_path):
    folder = _pick(root)
    [(step, rate)] = results_by_step(folder)
    assert step == 5
    assert rate.count == 12
    other = shutil.copytree(folder, folder.parent / "later")
    settings = json.loads((other / "evaluation.json").read_text())
    (other / "evaluation.json").write_text(json.dumps({**settings, "checkpoint": "b" * 64}))
    report = (other / "report.json").read_text()
    (other / "report.json").write_text(report.replace("step_0000005", "step_0000010"))
    assert [step for step, _ in results_by_step(folder)] == [5, 10]
    chart = checkpoint_chart(results_by_step(folder))
    assert chart is not None
    assert list(chart.figure.data[0].x) == [5, 10]
    (other / "evaluation.json").write_text(json.dumps({**settings, "seed": 4}))
    assert [step for step, _ in results_by_step(folder)] == [5]
    assert checkpoint_chart([(5, Rate(1, 2))]) is None


def test_the_spreadsheets_have_the_same_numbers(evaluated):
    folder = _pick(evaluated)
    report = json.loads((folder / "report.json").read_text())
    rows = list(csv.DictReader((folder / "report.csv").open()))
    assert len(rows) == 2 * 4
    for row in rows:
        written = report["policies"][row["policy"]][row["variant"]]
        assert int(row["successes"]) == written["successes"]
        assert float(row["wilson_low"]) == pytest.approx(written["wilson_95"][0], abs=1e-6)
    episodes = list(csv.DictReader((folder / "episodes.csv").open()))
    assert len(episodes) == 24
    network = [row for row in episodes if row["policy"] == "network"]
    assert (
        sum(int(row["success"]) for row in network)
        == report["policies"]["network"]["all"]["successes"]
    )
    assert {row["failure"] for row in network if row["success"] == "0"} == {"never moved"}
    assert "nan" not in rates_csv(_report(outcomes="eeee"))


def test_a_film_has_a_small_picture(tmp_path):
    frames = np.full((3, 64, 80, 3), 200, np.uint8)
    write_video(tmp_path / "film.mp4", frames, 3)
    picture = last_picture(tmp_path / "film.mp4")
    assert picture is not None
    assert picture.startswith("data:image/jpeg;base64,")
    assert len(picture) < 10_000
    (tmp_path / "torn.mp4").write_bytes(b"no film")
    assert last_picture(tmp_path / "torn.mp4") is None
    assert last_picture(tmp_path / "none.mp4") is None


def _with_published(task, successes, count, variants):
    records = [
        EpisodeRecord("network", task, variants[n % len(variants)], n, success=n < successes)
        for n in range(count)
    ]
    found = beside_result(TASKS[task], "simpler", "visual_matching", count, REAL)
    return Report(task, "SIMPLER", "visual_matching", 0, variants, {"network": records},
                  published=found.to_json())  # fmt: skip


def test_the_summary_shows_published_numbers_and_their_averages():
    apple = "place_apple_in_closed_top_drawer"
    sizes = {"pick_coke_can": 300, "move_near": 240, "open_drawer": 108, "close_drawer": 108}
    reports = [
        _with_published(task, count // 2, count, TASKS[task].variants)
        for task, count in {**sizes, apple: 108}.items()
    ]
    found = published_table(Summary(tuple(reports)))
    assert found is not None
    header, own, *rows = found["rows"]
    assert header == ["policy", *sizes, apple, "4 columns", "3 columns", "6 cells"]
    assert own[1:] == ["50 %"] * 8
    table = {row[0]: row[1:] for row in rows}
    assert table["RT-1 (converged)"][0] == "85.7 %"
    # As recomputed from SimplerEnv's cells elsewhere.
    assert table["RT-1 (converged)"][-3:] == ["52.4 %", "67.7 %", "74.6 %"]
    assert table["Octo-Base"][-3:] == ["11.0 %", "14.6 %", "-"]
    assert published_table(Summary((_report(),))) is None


def test_published_numbers_on_a_page(tmp_path):
    report = _with_published("move_near", 120, 240, TASKS["move_near"].variants)
    page = page_html(report, tmp_path)
    assert "77.9 %" in page
    assert re.search(r"\d+ published numbers of this task and protocol are left out", page)


@pytest.fixture
def main():
    return runpy.run_path(str(ROOT / "eval" / "report.py"), run_name="imported")["main"]


def _differences(root):
    found = [check for folder in find_results(root) for check in verify(folder)]
    return [line for check in found for line in check.differences]


def test_pages_are_written_anew_and_verify(main, root, capsys):
    folder = _pick(root)
    before = (folder / "report.html").read_text()
    for name in ("report.html", "episodes.csv"):
        (folder / name).unlink()
    (root / "eval" / "summary-0123abcd" / "summary.html").write_text("damage")
    assert len(_differences(root)) == 3
    main([str(root)])
    assert _differences(root) == []
    assert capsys.readouterr().out.count(".html") == 3
    after = (folder / "report.html").read_text()
    assert re.sub('<section id="published.*?</section>\n', "", after, flags=re.S) == before


def _stop(main, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.mark.parametrize("name", ["episodes.jsonl", "report.json", "report.md", "evaluation.json"])
def test_changed_results_get_no_page(main, root, capsys, name):
    path = _pick(root) / name
    path.write_text(path.read_text().replace("1", "2", 1))
    page = (_pick(root) / "report.html").read_bytes()
    assert _stop(main, _pick(root)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (_pick(root) / "report.html").read_bytes() == page


def test_without_results_there_is_no_page(main, root, tmp_path, capsys):
    begun = Ledger.open(tmp_path / "begun", {"policy": "network"}).folder
    for arguments in ((), (tmp_path / "nowhere",), (begun,)):
        assert _stop(main, *arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
