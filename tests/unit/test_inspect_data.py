"""Inspecting data: each planted fault is found, and a clean data set has none."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from selfflow_robotics.data.rlds.survey import survey
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.pages.data_page import page_html
from selfflow_robotics.evaluation.pages.data_report import data_report, report_text
from tests.rlds_sets import GOLDEN, GOLDEN_SET, edit_record, make_grasp, shard, write_set

ROOT = Path(__file__).parents[2]
IMAGE = "steps/observation/image"
COUNT = 6


def episodes() -> list[list[dict]]:
    return [make_grasp(seed, 20 + seed) for seed in range(COUNT)]


def report_of(directory, **options):
    return data_report(survey(directory, **options))


def planted(tmp_path, plant, **options):
    """The report on episodes that `plant` has changed."""
    changed = episodes()
    plant(changed)
    return report_of(write_set(tmp_path, changed), **options)


def kinds(report):
    return [(fault["kind"], fault["record"], fault["step"]) for fault in report["faults"]]


def test_a_clean_data_set_has_no_warning(tmp_path):
    report = report_of(write_set(tmp_path, episodes()), frames="all")
    assert report["warnings"] == []
    assert report["faults"] == []
    counts = report["counts"]
    steps = sum(range(20, 20 + COUNT))
    assert (counts["episodes"], counts["steps"], counts["instructions"]) == (COUNT, steps, 1)
    assert (counts["success"], counts["failure"], counts["unknown"]) == (COUNT - 1, 1, 0)
    assert counts["frames_decoded"] == steps
    assert report["lengths"]["min"] == 20
    assert report["lengths"]["max"] == 25
    assert report["gripper"]["verdict"] == "as expected"
    assert report["gripper"]["changes"] == 2 * COUNT
    assert report["gripper"]["stored"]["close (+1)"] == pytest.approx(COUNT / steps)
    assert min(report["tool_correlation"]) > 0.99
    assert report["data"]["image_size"] == (16, 24)
    json.dumps(report)
    assert "nothing looks wrong" in report_text(report)


def test_statistics_are_those_of_the_actions(tmp_path):
    report = report_of(write_set(tmp_path, episodes()))
    moves = np.array([s["world_vector"] for steps in episodes() for s in steps], np.float32)
    actions = report["actions"]
    for key, expected in (
        ("mean", moves.mean(0)),
        ("std", moves.std(0)),
        ("min", moves.min(0)),
        ("q01", np.quantile(moves, 0.01, axis=0)),
        ("q99", np.quantile(moves, 0.99, axis=0)),
        ("max", moves.max(0)),
    ):
        np.testing.assert_allclose(actions[key][:3], expected, rtol=1e-4, atol=1e-7)


def test_instructions_are_counted(tmp_path):
    def plant(changed):
        for number, words in enumerate(("a", "b", "b", "", "b", "a")):
            for step in changed[number]:
                step["instruction"] = words

    report = planted(tmp_path, plant)
    assert [(i["instruction"], i["episodes"]) for i in report["instructions"]] == [
        ("b", 3),
        ("a", 2),
        ("", 1),
    ]
    assert [(i["success"], i["failure"]) for i in report["instructions"]][1] == (1, 1)
    assert len(report["warnings"]) == 1  # an episode without an instruction


def test_a_duplicate_is_found(tmp_path):
    def plant(changed):
        changed[4] = changed[1]
        changed[5] = [dict(step) for step in changed[2]]
        changed[5][0]["image"] = changed[5][0]["image"] // 2  # the same actions alone

    same = planted(tmp_path, plant)["duplicates"]
    assert same == {"episodes": [[1, 4]], "actions": [[1, 4], [2, 5]], "first_frames": [[1, 4]]}


def test_an_outlier_is_found(tmp_path):
    def plant(changed):
        changed[3][7]["world_vector"] = np.array([0.0, 22.0, 0.0])
        changed[3][9]["world_vector"] = np.array([0.0, 0.0, -7.0])

    report = planted(tmp_path, plant)
    [outlier] = report["outliers"]
    assert (outlier["episode"], outlier["step"], outlier["dimension"]) == (3, 7, "y")
    assert (outlier["value"], outlier["steps"]) == (22.0, 2)
    assert outlier["half_ranges"] > 100


def test_long_standing_still_is_found(tmp_path):
    def plant(changed):
        for step in changed[5][4:21]:
            step["world_vector"] = step["rotation_delta"] = np.zeros(3)
            step["gripper_closedness_action"] = 0.0

    report = planted(tmp_path, plant)
    assert report["still"] == [{"episode": 5, "step": 4, "steps": 17}]


def test_a_frozen_camera_is_found(tmp_path):
    def plant(changed):
        for step in changed[2][5:14]:
            step["image"] = changed[2][5]["image"]

    report = planted(tmp_path, plant)
    [frozen] = report["frozen"]
    assert frozen["episode"] == 2
    assert frozen["step"] == 6
    assert frozen["steps"] >= 7  # some moves may be too small to count


def test_a_reversed_gripper_is_found(tmp_path):
    def plant(changed):
        for step in (step for steps in changed for step in steps):
            step["gripper_closedness_action"] *= -1

    report = planted(tmp_path, plant)
    assert report["gripper"]["verdict"] == "reversed"
    assert report["gripper"]["direction"] == -1.0
    assert len(report["warnings"]) == 1


def test_an_absolute_gripper_is_found(tmp_path):
    """1 for closed and 0 for open, as if 0 meant no change."""

    def plant(changed):
        for steps in changed:
            for t, step in enumerate(steps):
                closed = len(steps) // 3 <= t < 2 * len(steps) // 3
                step["gripper_closedness_action"] = float(closed)

    report = planted(tmp_path, plant)
    assert report["gripper"]["verdict"] == "moves without commands"
    assert report["gripper"]["unexplained"] == pytest.approx(0.5)


def test_a_gripper_that_is_not_recorded_is_not_judged(tmp_path):
    def plant(changed):
        for step in (step for steps in changed for step in steps):
            step["proprio"][7] = 0.0

    report = planted(tmp_path, plant)
    assert report["gripper"]["verdict"] == "unknown"
    assert report["warnings"] == []


def test_an_axis_that_points_the_other_way_is_found(tmp_path):
    def plant(changed):
        for step in (step for steps in changed for step in steps):
            step["world_vector"] = step["world_vector"] * [1, -1, 1]

    report = planted(tmp_path, plant)
    assert report["tool_correlation"][1] < -0.99
    [warning] = report["warnings"]
    assert "along y" in warning


@pytest.mark.parametrize(("step", "frames", "found"), [(7, "all", 1), (7, "sample", 0)])
def test_a_corrupt_image_is_found(tmp_path, step, frames, found):
    toy = write_set(tmp_path, episodes())
    edit_record(
        shard(toy, 1),
        1,
        lambda f: f[IMAGE].bytes_list.value.__setitem__(
            step, f[IMAGE].bytes_list.value[step][:-50]
        ),
    )
    report = report_of(toy, frames=frames)
    assert kinds(report) == [("frame", 1, step)] * found
    assert report["counts"]["episodes"] == COUNT


def test_a_missing_feature_and_its_neighbours(tmp_path):
    toy = write_set(tmp_path, episodes())
    edit_record(shard(toy, 1), 0, lambda f: f.pop("steps/action/rotation_delta"))
    report = report_of(toy)
    assert kinds(report) == [("record", 0, None)]
    assert "lacks 'steps/action/rotation_delta'" in report["faults"][0]["message"]
    assert report["faults"][0]["shard"].endswith("00001-of-00003")
    assert report["counts"]["episodes"] == COUNT - 1


def test_numbers_that_are_not_finite_are_left_out(tmp_path):
    toy = write_set(tmp_path, episodes())
    edit_record(
        shard(toy, 2),
        1,
        lambda f: f["steps/action/world_vector"].float_list.value.__setitem__(4, np.nan),
    )
    report = report_of(toy)
    assert kinds(report) == [("episode", 1, None)]
    assert report["counts"]["failure"] == 0  # the one left out


def test_every_damaged_record_is_found(tmp_path):
    toy = write_set(tmp_path, episodes(), per_shard=1)
    for number in (1, 4):
        data = bytearray(shard(toy, number).read_bytes())
        data[len(data) // 2] ^= 1
        shard(toy, number).write_bytes(data)
    data = bytearray(shard(toy, 3).read_bytes())
    data[1] ^= 1  # in the length
    shard(toy, 3).write_bytes(data)
    shard(toy, 5).write_bytes(shard(toy, 5).read_bytes()[:-3])
    shard(toy, 0).unlink()
    report = report_of(toy)
    found = [(fault["kind"], fault["shard"][-14:-9]) for fault in report["faults"]]
    assert found == [
        ("shard", "00000"),
        ("record", "00001"),
        ("shard", "00003"),
        ("record", "00004"),
        ("shard", "00005"),
    ]
    assert report["counts"]["episodes"] == 1
    assert report["counts"]["records"] == COUNT


def test_the_records_before_a_damaged_length_are_read(tmp_path):
    toy = write_set(tmp_path, episodes(), per_shard=3)
    shard(toy, 0).write_bytes(shard(toy, 0).read_bytes()[:-3])
    assert report_of(toy)["counts"]["episodes"] == COUNT - 1


def test_nothing_usable_is_reported_too(tmp_path):
    toy = write_set(tmp_path, episodes()[:2])
    shard(toy).write_bytes(b"")
    found = survey(toy)
    report = data_report(found)
    assert report["counts"]["episodes"] == 0
    assert "0 records readable" in page_html(found, report)
    assert "no readable image" in report_text(report)


def test_a_slice_of_a_split(tmp_path):
    report = report_of(write_set(tmp_path, episodes()), split="train[1:4]")
    assert report["counts"]["episodes"] == 3
    assert report["counts"]["steps"] == 21 + 22 + 23


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train[2:4]", [2, 3]),
        ("train[4:]+train[:1]", [4, 5, 0]),
    ],
)
def test_each_episode_has_a_number_of_its_own(tmp_path, split, numbers):
    found = survey(write_set(tmp_path, episodes()), split)
    assert [episode.number for episode in found.episodes] == numbers


def test_what_tensorflow_datasets_wrote(tmp_path):
    expected = json.loads((GOLDEN / "expected.json").read_text())
    report = report_of(GOLDEN_SET, frames="all")
    assert report["warnings"] == []
    assert report["data"]["image_size"] == (256, 320)
    assert report["data"]["control_hz"] is None
    assert [one["instruction"] for one in report["instructions"]] == [expected["instruction"]]
    arm = np.concatenate([expected["world_vector"], expected["rotation_delta"]], axis=1)
    np.testing.assert_allclose(report["actions"]["mean"][:6], arm.mean(0), atol=1e-6)
    assert report["lengths"]["max"] == len(arm)
    assert report["gripper"]["measured"] == 1  # too few to judge
    assert report["gripper"]["direction"] == 1.0


def test_bridges_features(tmp_path):
    report = report_of(write_set(tmp_path, episodes(), layout="bridge"))
    assert report["data"]["layout"] == "bridge_dataset"
    assert report["warnings"] == []
    assert report["gripper"]["verdict"] == "as expected"
    assert report["gripper"]["stored"]["between"] == 0.0


@pytest.fixture
def main(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return runpy.run_path(str(ROOT / "finetune/inspect_data.py"), run_name="imported")["main"]


def test_the_command_writes_page_and_json(main, tmp_path, capsys):
    toy = write_set(tmp_path, episodes())
    main([str(toy), "output=here", "pictures=2"])
    assert "nothing looks wrong" in capsys.readouterr().out
    report = json.loads((tmp_path / "here/toy/report.json").read_text())
    assert report["counts"]["episodes"] == COUNT
    assert "<html" in (tmp_path / "here/toy/page.html").read_text()


def test_data_sets_of_one_name_have_a_report_each(main, tmp_path):
    for folder, number in (("a", 2), ("b", 3)):
        write_set(tmp_path / folder, episodes()[:number])
    main(["a/toy/0.1.0", "b/toy/0.1.0", "pictures=0"])
    reports = [tmp_path / "inspections" / name / "report.json" for name in ("toy", "toy-2")]
    told = [json.loads(path.read_text())["counts"]["episodes"] for path in reports]
    assert told == [2, 3]


def exit_code(main, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_verify_tells_intact_from_damaged(main, tmp_path, capsys):
    toy = write_set(tmp_path, episodes())
    main([str(toy), "verify=true"])
    assert "all intact" in capsys.readouterr().out
    assert not (tmp_path / "inspections").exists()

    def cut(features):
        values = features[IMAGE].bytes_list.value
        values[3], values[8] = values[3][:-50], values[8][:-50]

    edit_record(shard(toy, 0), 1, cut)
    data = bytearray(shard(toy, 2).read_bytes())
    data[len(data) // 4] ^= 1
    shard(toy, 2).write_bytes(data)
    assert exit_code(main, toy, "verify=true") == 1
    first, second, _ = capsys.readouterr().out.splitlines()
    assert re.search(r"00000-of-00003: record 1 .*step 3", first)
    assert re.search(r"00002-of-00003: record 0 ", second)


def test_verify_counts_what_training_leaves_out(main, tmp_path, capsys):
    toy = write_set(tmp_path, episodes())
    world_vector = "steps/action/world_vector"
    edit_record(shard(toy, 1), 0, lambda f: f[world_vector].float_list.value.__setitem__(4, np.nan))
    main([str(toy), "verify=true"])
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith("all intact; training leaves out 1 episode: 1 numbers not finite")


def test_bad_input_is_one_line(main, tmp_path, capsys):
    for arguments in ([], ["nowhere/0.1.0"], [write_set(tmp_path, episodes()), "split=val"]):
        assert exit_code(main, *arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_unwritable_output_is_named(main, tmp_path, capsys):
    toy = write_set(tmp_path, episodes()[:2])
    (tmp_path / "file").touch()
    assert exit_code(main, toy, "output=file") == 2
    assert "file" in capsys.readouterr().err


def test_an_unfinished_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"dataset_info\.json is missing"):
        survey(tmp_path)
