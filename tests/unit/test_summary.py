"""The table over several tasks and its averages."""

import json
from dataclasses import replace

import pytest

from selfflow_robotics.envs.tasks.catalog import GROUPS
from selfflow_robotics.evaluation.ledger import EpisodeRecord
from selfflow_robotics.evaluation.report import Report
from selfflow_robotics.evaluation.summary import AVERAGES, Summary

ORIENTATIONS = ("horizontal", "vertical", "standing")
DRAWERS = ("top", "middle", "bottom")
APPLE = "place_apple_in_closed_top_drawer"
FOUR, THREE, SIX, WIDOWX = AVERAGES


def report(task, variants, successes, count, errors=0):
    """Of `count` episodes of each variant, `successes[variant]` succeed in the end and one more in
    between."""

    def records(policy, successes):
        return [
            EpisodeRecord(
                *(policy, task, variant, seed),
                success=seed < successes[index],
                success_at_any_step=seed <= successes[index],
                error="crash" if seed >= count - errors else None,
            )
            for index, variant in enumerate(variants)
            for seed in range(count)
        ]

    return Report(
        task=task,
        simulator="SIMPLER",
        protocol="grid",
        seed=0,
        variants=variants,
        episodes={
            "network": records("network", successes),
            "random": records("random", [0] * len(variants)),
        },
    )


PICK = report("pick_coke_can", ORIENTATIONS, (25, 20, 15), 25)
NEAR = report("move_near", ("only",), (30,), 60)
OPEN = report("open_drawer", DRAWERS, (9, 0, 0), 9)
CLOSE = report("close_drawer", DRAWERS, (9, 9, 0), 9)
PLACE = report(APPLE, ("only",), (0,), 27)


def rates(summary, policy="network", **more):
    return {average.name: average.rate for average in summary.averages(policy, **more)}


def test_each_average_is_of_what_it_names():
    found = rates(Summary((PICK, NEAR, OPEN, CLOSE, PLACE)))
    drawers = (1 / 3 + 2 / 3) / 2
    assert found[FOUR] == pytest.approx((0.8 + 0.5 + drawers + 0) / 4)
    assert found[THREE] == pytest.approx((0.8 + 0.5 + drawers) / 3)
    assert found[SIX] == pytest.approx((1.0 + 0.8 + 0.6 + 0.5 + 1 / 3 + 2 / 3) / 6)
    assert rates(Summary((PICK, NEAR, OPEN, CLOSE, PLACE)), "random")[FOUR] == 0


def test_an_average_needs_all_of_its_cells():
    assert set(rates(Summary((PICK, NEAR, OPEN, CLOSE)))) == {THREE, SIX}
    assert rates(Summary((PICK, OPEN, CLOSE))) == {}
    broken = report("move_near", ("only",), (30,), 60, errors=1)
    assert rates(Summary((PICK, broken, OPEN, CLOSE))) == {}


def test_an_average_needs_all_variants():
    partly = replace(NEAR, left_out={"other": "a file is missing"})
    assert rates(Summary((PICK, partly, OPEN, CLOSE))) == {}
    assert "Without other: a file is missing" in partly.notes()


def test_success_at_any_step_counts_more():
    found = rates(Summary((PICK, NEAR, OPEN, CLOSE)), at_any_step=True)
    drawers = (11 / 27 + 19 / 27) / 2
    assert found[THREE] == pytest.approx((62 / 75 + 31 / 60 + drawers) / 3)


def test_the_interval_of_one_cell_is_wilsons_and_shrinks_with_more_cells():
    [average] = [a for a in Summary((PICK, NEAR, OPEN, CLOSE)).averages("network") if a.name == SIX]
    low, high = average.interval
    assert low < average.rate < high
    cells = [PICK.rate("network", name) for name in ORIENTATIONS]
    widest = max(rate.interval[1] - rate.interval[0] for rate in cells)
    assert high - low < widest


def test_table_and_files(tmp_path):
    summary = Summary((PICK, NEAR, OPEN, CLOSE, PLACE))
    header, *rows = summary.table()
    assert header == ["task", "success", "95 % interval", "n", "at any step", "random"]
    assert [row[0] for row in rows[:2]] == ["pick_coke_can", "move_near"]
    assert rows[0][1:] == ["80 %", "70-87 %", "75", "83 %", "0 %"]
    assert len(rows) == 5 + len({*AVERAGES} - {WIDOWX})
    assert all(len(row) == len(header) for row in rows)
    summary.write(tmp_path / "folder")
    assert "move_near" in (tmp_path / "folder" / "summary.md").read_text()
    found = json.loads((tmp_path / "folder" / "summary.json").read_text())
    assert found["tasks"]["move_near"]["policies"]["network"]["all"]["successes"] == 30
    assert [a["of"] for a in found["averages"]["network"]] == [FOUR, THREE, SIX]


def test_widowx_is_averaged_over_its_four_tasks():
    tasks = [report(name, ("only",), (6 * k,), 24) for k, name in enumerate(GROUPS["widowx"])]
    assert rates(Summary(tuple(tasks))) == {WIDOWX: pytest.approx((0 + 6 + 12 + 18) / 4 / 24)}
    assert rates(Summary((*tasks[:3], PICK))) == {}
