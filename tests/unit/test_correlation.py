"""Whether two worlds rank policies alike, with values by hand and SIMPLER's own."""

import json
import runpy
from pathlib import Path

import pytest

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.comparing.correlation import (
    Score,
    agreement,
    mmrv,
    pearson,
    ranks,
)
from selfflow_robotics.evaluation.comparing.ranking import find_rankings, published_ranking
from selfflow_robotics.evaluation.ledger import EpisodeRecord, Ledger

ROOT = Path(__file__).parents[2]


def test_mmrv_by_hand():
    assert mmrv([0.1, 0.5, 0.9], [0.2, 0.4, 0.6]) == 0
    # The first two are swapped: each violates a gap of 0.2, the third none.
    assert mmrv([0.5, 0.1, 0.9], [0.2, 0.4, 0.6]) == pytest.approx((0.2 + 0.2 + 0) / 3)
    # Reversed: each policy's largest gap is violated.
    assert mmrv([0.9, 0.5, 0.1], [0.2, 0.4, 0.6]) == pytest.approx((0.4 + 0.2 + 0.4) / 3)
    # Equal rates in the judged world violate one direction of each pair.
    assert mmrv([0.5, 0.5], [0.2, 0.6]) == pytest.approx((0 + 0.4) / 2)
    assert mmrv([0.2, 0.6], [0.5, 0.5]) == 0  # a difference of zero costs nothing


def test_pearson_by_hand():
    assert pearson([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]) == pytest.approx(1)
    assert pearson([0.1, 0.2, 0.3], [0.6, 0.5, 0.4]) == pytest.approx(-1, abs=1e-5)
    # Centred (-1, 0, 1) and (-1, 1, 0): 1 / 2.
    assert pearson([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert pearson([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]) == 0
    with pytest.raises(ValueError, match="2 and 3"):
        pearson([1, 2], [1, 2, 3])


def test_ranks_share_ties():
    assert ranks([0.9, 0.1, 0.5]) == [1, 3, 2]
    assert ranks([0.5, 0.5, 0.1, 0.9]) == [2.5, 2.5, 4, 1]


@pytest.mark.parametrize(
    ("task", "violation", "correlation"),
    [
        ("pick_coke_can", 0.031, 0.975),
        ("move_near", 0.111, 0.856),
        ("open_drawer", 0.0, 0.983),
        ("close_drawer", 0.123, 0.771),
        ("place_apple_in_closed_top_drawer", 0.0, 0.969),
    ],
)
def test_simpler_against_the_real_robot(task, violation, correlation):
    ranking = published_ranking(task)
    assert ranking is not None
    found = ranking.agreement()
    assert (found.mmrv, found.pearson) == pytest.approx((violation, correlation), abs=6e-4)
    assert found.mmrv_95[0] <= found.mmrv <= found.mmrv_95[1]
    assert found.pearson_95[0] < found.pearson < found.pearson_95[1]


def test_the_interval_shrinks_with_the_episodes():
    few, many = (
        agreement(
            [Score(r * n, n) for r in (0.2, 0.5, 0.8)], [Score(r * n, n) for r in (0.3, 0.5, 0.9)]
        )
        for n in (10, 1000)
    )
    assert few.pearson == pytest.approx(many.pearson)
    assert few.pearson_95[0] < many.pearson_95[0]
    assert many.mmrv_95 == (0, 0)
    with pytest.raises(ValueError, match="two policies"):
        agreement([Score(1, 2)], [Score(1, 2)])


def _evaluate(root, policy, simulator, successes, protocol="random", **more):
    settings = {"policy": policy, "checkpoint": None, "protocol": protocol, "seed": 0, **more}
    settings["simulator"] = {"simulator": simulator, "task": "pick_coke_can"}
    folder = root / f"{policy}-{simulator}-{protocol}"
    ledger = Ledger.open(folder, settings)
    for seed in range(10):
        ledger.add(
            EpisodeRecord(policy, "pick_coke_can", "standing", seed, success=seed < successes)
        )
    return folder


@pytest.fixture
def results(tmp_path):
    for policy, tabletop, simpler in (("good", 9, 10), ("fair", 4, 6), ("bad", 6, 1)):
        _evaluate(tmp_path, policy, "tabletop", tabletop)
        _evaluate(tmp_path, policy, "simpler", simpler)
    _evaluate(tmp_path, "alone", "tabletop", 5)
    return tmp_path


def test_policies_are_paired_by_their_settings(results):
    [ranking] = find_rankings([str(results)], "tabletop", "simpler", "last_step")
    assert ranking.policies == ("good", "fair", "bad")  # as the reference ranks them
    assert [score.rate for score in ranking.judged] == [0.9, 0.4, 0.6]
    assert ranking.agreement().mmrv == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert [row[2] for row in ranking.table()[1:]] == ["1", "3", "2"]
    assert ranking.remarks == ()


def test_what_cannot_be_ranked_is_an_error(results, tmp_path):
    with pytest.raises(UserError, match="no two policies"):
        find_rankings([str(results)], "tabletop", "fake", "last_step")
    with pytest.raises(UserError, match="no results"):
        find_rankings([str(tmp_path / "nothing")], "tabletop", "simpler", "last_step")
    _evaluate(results, "good", "simpler", 3, protocol="grid")
    with pytest.raises(UserError, match="several results of pick_coke_can in simpler"):
        find_rankings([str(results)], "tabletop", "simpler", "last_step")
    [chosen] = find_rankings([str(results)], "tabletop", "simpler", "last_step", "random")
    assert len(chosen.policies) == 3


def test_the_command_prints_and_writes_both(results, tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "eval" / "correlate.py"), run_name="imported")["main"]
    main([str(results), f"output={tmp_path / 'new' / 'found.json'}"])
    assert "MMRV 0.333" in capsys.readouterr().out
    found = json.loads((tmp_path / "new" / "found.json").read_text())
    assert found["measured"][0]["mmrv"] == pytest.approx(1 / 3)
    assert found["published"][0]["pearson"] == pytest.approx(0.975, abs=6e-4)
    main([])
    assert capsys.readouterr().out.count("MMRV") == 5
    for arguments in (["judged=simpler"], [str(tmp_path / "nowhere")]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
