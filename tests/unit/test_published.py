"""Published numbers stand only beside results of the same convention."""

from collections import Counter

import pytest

from selfflow_robotics.envs.tasks.catalog import TASKS
from selfflow_robotics.evaluation.protocol import evaluation_episodes
from selfflow_robotics.evaluation.published import (
    FILE,
    REAL_ROBOT,
    Measured,
    Published,
    beside,
    beside_result,
    published,
    real_and_simulated,
)
from selfflow_robotics.evaluation.summary import AVERAGES
from selfflow_robotics.json_file import read_json

REAL = {"dataset": "fractal20220817_data"}
FIVE = ("pick_coke_can", "move_near", "open_drawer", "close_drawer")
SHORT = {name.partition(":")[0] for name in AVERAGES}


def test_every_entry_is_complete_and_names_a_source():
    content = read_json(FILE)
    known = {"policy", "robot", "protocol", "success", "episodes", "trained_on", "source"}
    for entry in content["results"]:
        assert known <= set(entry) <= {*known, "values", "remark", "corrections"}, entry
        assert entry["source"] in content["sources"]
        assert entry["success"] in (None, "last_step", "any_step", "early_stop")
        for correction in entry.get("corrections", ()):
            assert set(correction) == {"kind", "what", "source"}
    for one in published():
        assert 0 <= one.rate <= 1
        known_columns = {*TASKS, *SHORT, "drawer", "864 episodes"}
        assert one.column in known_columns, one.column
    keys = Counter((o.policy, o.robot, o.protocol, o.column, o.source) for o in published())
    assert max(keys.values()) == 1


@pytest.mark.parametrize("name", [*FIVE, "move_near_v0", "place_apple_in_closed_top_drawer"])
def test_they_stand_beside_the_whole_protocol(name):
    task = TASKS[name]
    count = len(evaluation_episodes(task, "simpler", "visual_matching", None, 0))
    found = beside_result(task, "simpler", "visual_matching", count, REAL)
    assert [one.success for one in found.shown] == ["last_step"] * 6
    assert {one.episodes for one in found.shown} == {count}
    rates = [one.rate for one in found.shown]
    assert rates == sorted(rates, reverse=True)
    part = beside_result(task, "simpler", "visual_matching", count - 1, REAL)
    grid = beside_result(task, "simpler", "grid", count, REAL)
    for refused in (part, grid, beside_result(task, "tabletop", "grid", count, REAL)):
        assert not refused.shown
        assert refused.refused


def test_the_numbers_are_simplers():
    found = beside(Measured("close_drawer", "visual_matching", 108, 108, "real"))
    assert [(one.policy, one.rate) for one in found.shown][:2] == [
        ("RT-1-X", 0.891),
        ("RT-1 (converged)", 0.861),
    ]
    [line, left_out] = found.lines()
    assert "RT-1 (converged) 86.1 %" in line
    assert "not stated" in left_out


def test_who_is_left_out_and_why():
    found = beside(Measured("pick_coke_can", "visual_matching", 300, 300, "real"))
    reasons: dict[str, list[str]] = {}
    for one, why in found.left_out:
        reasons.setdefault(one.policy, []).append(why)
    assert len(reasons["OpenVLA-7B"]) == 4
    assert "648" in reasons["X-VLA"][0]
    assert all("2022" in why for why in reasons["GR00T N1.6 (fractal)"])
    assert "success is not stated" in reasons["CogACT-Base"][0]
    assert not {one.policy for one in found.shown} & set(reasons)


def _number(**more):
    values = {"success": "any_step", "episodes": 300, "trained_on": "real", **more}
    return Published(
        "p", "google_robot", "visual_matching", "pick_coke_can", 0.5, source="s", **values
    )


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({}, True),
        ({"episodes": 900}, True),  # three times
        ({"episodes": 200}, False),
        ({"episodes": None}, False),
        ({"success": None}, False),
        ({"trained_on": "simulation"}, False),
        ({"trained_on": None}, False),
        ({"corrections": ({"kind": "swapped cells", "what": "", "source": ""},)}, True),
        ({"corrections": ({"kind": "initial states", "what": "", "source": ""},)}, False),
    ],
)
def test_each_part_of_the_convention_counts(more, shown):
    result = Measured("pick_coke_can", "visual_matching", 300, 300, "real")
    found = beside(result, [_number(**more)])
    assert (len(found.shown), len(found.left_out)) == ((1, 0) if shown else (0, 1))


def test_only_policies_that_see_what_the_published_ones_saw():
    arguments = (TASKS["pick_coke_can"], "simpler", "visual_matching", 300)
    assert beside_result(*arguments, None).shown  # a policy server, of unknown data
    assert not beside_result(*arguments, {"simulator": "simpler"}).shown
    assert beside_result(*arguments, None, is_evaluated=False).refused
    assert beside_result(*arguments, REAL, instruction="open drawer").refused
    bridge = beside_result(
        TASKS["stack_cube"], "simpler", "visual_matching", 24, {"dataset": "bridge_dataset"}
    )
    assert {one.policy for one in bridge.shown} == {"RT-1-X", "Octo-Base", "Octo-Small"}


def test_the_real_robots_numbers_are_paired_with_simplers():
    pairs = real_and_simulated("pick_coke_can")
    assert len(pairs) == 6
    assert {(real.protocol, real.episodes) for real, _ in pairs} == {(REAL_ROBOT, 75)}
    assert {simulated.episodes for _, simulated in pairs} == {300}
    assert len(real_and_simulated("spoon_on_towel", "widowx")) == 3


def test_other_tasks_have_none():
    for name, count in (("open_top_drawer", 36), ("pick_object", 100)):
        assert beside(Measured(name, "visual_matching", count, count, "real")).refused
