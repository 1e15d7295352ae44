"""The numbers of a report and the words around them."""

import json
from typing import get_args

import pytest

from selfflow_robotics.evaluation.ledger import EpisodeRecord, SuccessRule
from selfflow_robotics.evaluation.report import Rate, Report

VARIANTS = ("standing", "horizontal")


def _records(policy, outcomes):
    """`outcomes`: one of "1" success, "0" failure, "t" success that did not last, "e" error."""
    return [
        EpisodeRecord(
            policy,
            "pick_coke_can",
            VARIANTS[index % 2],
            index,
            success=outcome == "1",
            success_at_any_step=outcome in "1t",
            error="crash" if outcome == "e" else None,
        )
        for index, outcome in enumerate(outcomes)
    ]


def _report(policy="01011101t1", baseline="0000000000", **more):
    return Report(
        task="pick_coke_can",
        simulator="the MuJoCo tabletop",
        protocol="random",
        seed=0,
        variants=VARIANTS,
        episodes={"network": _records("network", policy), "random": _records("random", baseline)},
        **more,
    )


def test_rates_per_variant_and_in_all():
    report = _report()
    assert report.rate("network") == Rate(6, 10, 0, 7)
    assert report.rate("network", "standing") == Rate(1, 5, 0, 2)
    assert report.rate("network", "horizontal") == Rate(5, 5, 0, 5)
    assert report.rate("network").interval == pytest.approx((0.31267, 0.83182), abs=1e-5)
    assert report.comparisons() == {"random": pytest.approx(2 / 2**6)}


def test_the_table_is_text_and_markdown():
    text = _report().to_text()
    assert "pick_coke_can on the MuJoCo tabletop, protocol random, seed 0" in text
    rows = [[c.strip() for c in line.split("  ") if c.strip()] for line in text.splitlines()]
    assert ["network", "standing", "20 %", "4-62 %", "5", "40 %", "0"] in rows
    assert ["horizontal", "100 %", "57-100 %", "5", "100 %", "0"] in rows
    assert ["all", "60 %", "31-83 %", "10", "70 %", "0"] in rows
    assert "exact McNemar p = 0.031" in text
    markdown = _report().to_markdown()
    assert "| network | standing | 20 % | 4-62 % | 5 | 40 % | 0 |" in markdown


def test_errors_leave_bounds_and_no_rate():
    report = _report(policy="11ee000000")
    rate = report.rate("network")
    assert rate == Rate(2, 8, 2, 2)
    assert rate.bounds == (0.2, 0.4)
    assert rate.text() == "20-40 %"
    assert rate.to_json()["rate"] is None
    low, high = rate.interval
    assert low < 0.2 < 0.4 < high
    assert "2 episodes failed to run" in report.to_text()
    # Pairs with an error in them say nothing.
    assert report.comparisons()["random"] == pytest.approx(0.5)


def test_a_stranger_is_marked_in_the_table():
    text = _report(out_of_domain="trained on data of SIMPLER, measured here").to_text()
    assert "network (out of domain)" in text
    assert "random (out of domain)" not in text
    assert "Out of domain: trained on data of SIMPLER, measured here." in text


def test_the_exact_interval_and_the_mean_of_variants_are_in_the_file():
    policies = _report(policy="0101110111").to_json()
    # 0 to 6 of 10 by Clopper and Pearson; 2 of 5 and 5 of 5, weighed equally.
    exact = policies["policies"]["network"]["all"]["clopper_pearson_95"]
    assert exact == pytest.approx((0.3475471, 0.9332605), abs=1e-6)
    mean = policies["mean_of_variants"]["network"]
    assert mean["rate"] == pytest.approx(0.7)
    low, high = mean["interval_95"]
    assert low < 0.7 < high
    assert _report(policy="11ee000000").mean_of_variants("network") is None


def test_success_by_another_rule():
    rate = Rate(6, 10, 0, 7)
    assert [rate.under(rule).successes for rule in get_args(SuccessRule)] == [6, 7, 7]


def test_nothing_played_is_no_rate():
    assert Rate.of([]).text() == "-"
    assert Rate.of([]).to_json()["wilson_95"] is None


def test_the_files(tmp_path):
    _report(simulator_provenance={"mujoco": "4.0"}).write(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["policies"]["network"]["all"]["rate"] == 0.6
    assert report["policies"]["network"]["horizontal"]["successes"] == 5
    assert report["policies"]["random"]["all"]["wilson_95"][0] == 0.0
    assert report["simulator_provenance"] == {"mujoco": "4.0"}
    assert (tmp_path / "report.md").read_text().startswith("# pick_coke_can on")
