"""The command `python eval/compare.py`: what is paired, what is refused, and what it says."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.comparing.comparison import Goal, compare
from selfflow_robotics.evaluation.comparing.matching import Candidate
from selfflow_robotics.evaluation.ledger import EpisodeRecord, Ledger, common_episodes

ROOT = Path(__file__).parents[2]
PHYSICS = {"simulator": "tabletop", "mujoco": "4.0.0", "image_size": [64, 80]}


def evaluation(folder, outcomes, task="move_near", simulator=None, start="", **settings):
    """A results folder whose episode k has outcome `outcomes[k]`: "1" success, "0" failure, "t" a
    success that does not last, "e" an error."""
    fingerprint = {
        "policy": "network",
        "checkpoint": "aaaaaaaa11111111",
        "protocol": "random",
        "seed": 0,
        "replan_steps": 6,
        "simulator": {**PHYSICS, "task": task, **(simulator or {})},
        **settings,
    }
    ledger = Ledger.open(folder, fingerprint)
    for number, outcome in enumerate(outcomes):
        episode = ("only", 1000 * fingerprint["seed"] + number)
        ledger.add(
            EpisodeRecord(
                *(fingerprint["policy"], task, *episode),
                success=outcome == "1",
                success_at_any_step=outcome in "1t",
                error="crash" if outcome == "e" else None,
                start=f"{start}{episode}",
            )
        )
        ledger.add(EpisodeRecord("random", task, *episode))  # a baseline, not compared
    return str(folder)


@pytest.fixture
def main(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return runpy.run_path(str(ROOT / "eval" / "compare.py"), run_name="imported")["main"]


@pytest.fixture
def result(main, capsys):
    """Runs the command, returns its JSON."""

    def run(*arguments):
        main([*arguments, "output=-"])
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refusal(main, capsys):
    """Runs the command, which must refuse, and returns its one line."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        output = capsys.readouterr()
        assert stop.value.code == 2
        assert output.out == ""
        assert output.err.startswith("error: ")
        assert output.err.count("\n") == 1
        return output.err

    return run


def test_two_results_of_a_task(tmp_path, result):
    a = evaluation(tmp_path / "a", "1100" * 5 + "0" * 10)
    b = evaluation(tmp_path / "b", "1100" * 5 + "1" * 10, checkpoint="bbbbbbbb22222222")
    found = result(a, b)
    [row] = found["tasks"]
    assert (row["task"], row["first"], row["second"], row["count"]) == ("move_near", "A", "B", 30)
    assert row["counts"] == {"both": 10, "only_first": 0, "only_second": 10, "neither": 10}
    assert [rate["rate"] for rate in row["rates"]] == pytest.approx([1 / 3, 2 / 3])
    assert row["difference"] == pytest.approx(1 / 3)
    assert row["mcnemar_p"] == row["holm_p"] == pytest.approx(2 / 2**10)
    assert (row["verdict"], row["better"], row["more_episodes"]) == ("second", "B", 0)
    low, high = row["tango_95"]
    assert 0 < low < 1 / 3 < high
    assert found["means"] == []
    # The other way round, the other is better.
    [turned] = result(b, a)["tasks"]
    assert (turned["verdict"], turned["better"]) == ("first", "A")
    assert turned["difference"] == pytest.approx(-1 / 3)


@pytest.mark.parametrize(
    ("rule", "difference"), [("last_step", 0.0), ("any_step", 0.5), ("early_stop", 0.5)]
)
def test_the_success_rule(rule, difference, tmp_path, result):
    a, b = evaluation(tmp_path / "a", "10" * 5), evaluation(tmp_path / "b", "1t" * 5, seed=0)
    assert result(a, b, f"success={rule}")["tasks"][0]["difference"] == difference


def test_runs_are_matched_by_task_and_holm_counts_all_rows(tmp_path, result):
    for run, outcome in (("a", "0"), ("b", "1")):
        for task in ("move_near", "pick_coke_can", "open_drawer"):
            evaluation(tmp_path / run / "eval" / f"x-{task}", "01" * 6 + outcome * 6, task)
    evaluation(tmp_path / "a" / "eval" / "more", "0", "close_drawer")
    for given in (("a", "b"), ("a/eval", "b/eval"), ("a", "b/eval")):
        found = result(*given)
        assert [row["task"] for row in found["tasks"]] == [
            "move_near", "open_drawer", "pick_coke_can",
        ]  # fmt: skip
        for row in found["tasks"]:
            assert row["mcnemar_p"] == pytest.approx(2 / 2**6)
            assert row["holm_p"] == pytest.approx(3 * 2 / 2**6)
            assert row["verdict"] == "not_enough"
            assert row["more_episodes"] > 0
        [mean] = found["means"]
        assert mean["difference"] == pytest.approx(1 / 3)
        assert mean["interval"][0] < 1 / 3 < mean["interval"][1]
        assert any("close_drawer" in remark for remark in found["remarks"])


def test_three_are_compared_each_with_each(tmp_path, result):
    folders = [evaluation(tmp_path / name, "01" * 10, seed=0) for name in "abc"]
    found = result(*folders)
    pairs = [(row["first"], row["second"]) for row in found["tasks"]]
    assert pairs == [("A", "B"), ("A", "C"), ("B", "C")]
    assert {row["difference"] for row in found["tasks"]} == {0.0}


def test_only_common_episodes_without_errors_count(tmp_path, main, capsys):
    a, b = evaluation(tmp_path / "a", "1e1011"), evaluation(tmp_path / "b", "1110")
    with pytest.raises(SystemExit) as stop:
        main([a, b, "output=new/c.json"])
    assert stop.value.code == 1  # episodes failed to run
    found = json.loads((tmp_path / "new" / "c.json").read_text())
    assert found["tasks"][0]["count"] == 3
    assert len(found["troubles"]) == 1
    assert capsys.readouterr().err == found["troubles"][0] + "\n"


def test_seeds_of_one_policy_are_pooled(tmp_path, result):
    for run in "ab":
        for seed in (0, 5):
            evaluation(tmp_path / run / f"x-{seed}", "0110", seed=seed)
    evaluation(tmp_path / "a" / "x-7", "0110", seed=7)
    [row] = result("a", "b")["tasks"]
    assert row["count"] == 8


def test_shards_count_without_the_whole_and_with_it(tmp_path, result):
    for count in (4, 8):  # the same episodes twice count once
        evaluation(tmp_path / "a" / "x" / f"shard_1_of_{count}", "0" * count)
    evaluation(tmp_path / "b" / "x", "1" * 8)
    assert result("a", "b")["tasks"][0]["count"] == 8
    evaluation(tmp_path / "a" / "x", "")
    assert result("a", "b")["tasks"][0]["count"] == 8


def test_one_of_several_results_is_chosen_by_its_settings(tmp_path, result, refusal):
    run = tmp_path / "a" / "eval"
    evaluation(run / "three", "00", replan_steps=3)
    evaluation(run / "six", "11", replan_steps=6, checkpoint="cccccccc33333333")
    [row] = result("a@replan_steps:3", "a@checkpoint:cccc,task:move_near")["tasks"]
    assert row["difference"] == 1.0
    assert "a@checkpoint:" in refusal("a", "a@replan_steps:6")
    assert "replan_steps" in refusal("a@replan_stps:3", "a")
    assert "replan_steps:4" in refusal("a@replan_steps:4", "a")
    assert "six" in refusal("a@replan_steps:6", str(run / "six"))


def test_a_setting_at_its_default_is_chosen_though_results_do_not_have_it(
    tmp_path, result, refusal
):
    evaluation(tmp_path / "a" / "eval" / "one", "00")
    evaluation(tmp_path / "a" / "eval" / "two", "11", execution="rtc", delay=1)
    for usual in ("execution:receding", "execution:null", "delay:0", "solver:euler,delay:0"):
        [row] = result(f"a@{usual}", "a@execution:rtc")["tasks"]
        assert row["difference"] == 1.0
    assert "a@delay:0" in refusal("a", "a@execution:rtc")
    assert "did you mean" in refusal("a@executoin:rtc", "a")


def test_two_versions_of_the_simulator_are_not_mixed(tmp_path, result, refusal):
    for run in "ab":
        for version in ("4.0.0", "4.1.0"):
            folder = tmp_path / run / version
            evaluation(folder, "01", simulator={"mujoco": version}, replan_steps=3)
    assert "several versions" in refusal("a", "b")
    assert result("a@mujoco:4.1.0", "b")["tasks"][0]["count"] == 2


def test_the_same_results_twice_are_refused(tmp_path, refusal):
    for name in ("x", "y"):
        evaluation(tmp_path / "a" / name, "01")
    evaluation(tmp_path / "b", "01")
    assert "twice" in refusal("a", "b")


def test_other_pictures_are_remarked_and_not_refused(tmp_path, result):
    a = evaluation(tmp_path / "a", "01")
    b = evaluation(tmp_path / "b", "01", simulator={"image_size": [128, 160]})
    assert any("image_size" in remark for remark in result(a, b)["remarks"])


def test_repeated_starts_are_remarked(tmp_path, result):
    folders = []
    for name in "ab":
        folders.append(evaluation(tmp_path / name, "0101", seed=0))
        path = tmp_path / name / "episodes.jsonl"
        lines = [json.loads(line) | {"start": "same"} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert any("3 of 4 episodes" in remark for remark in result(*folders)["remarks"])


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"task": "open_drawer"}, "open_drawer"),
        ({"protocol": "grid"}, "protocol=random"),
        ({"simulator": {"simulator": "simpler", "mujoco": None}}, "simpler"),
        ({"simulator": {"mujoco": "4.1.0"}}, "4.1.0"),
        ({"seed": 3}, "seed="),
        ({"outcomes": "ee"}, "failed to run"),
        ({"start": "elsewhere"}, "another state"),
    ],
)
def test_what_cannot_be_paired_is_one_line(other, word, tmp_path, refusal):
    a = evaluation(tmp_path / "a", "01")
    b = evaluation(tmp_path / "b", **{"outcomes": "01", **other})
    assert word in refusal(a, b)


def test_what_is_no_result_is_one_line(tmp_path, refusal):
    a = evaluation(tmp_path / "a", "01")
    (tmp_path / "empty").mkdir()
    assert "nowhere" in refusal(a, "nowhere")
    assert "empty" in refusal(a, "empty")
    assert "plan=" in refusal(a)
    assert "plan=" in refusal()
    assert "plan=" in refusal(a, a, "plan=10")
    assert "plan" in refusal("plan=0")
    assert "power" in refusal("plan=10", "power=1")
    assert "last_step" in refusal(a, a, "success=last_stp")
    assert "--outptu" in refusal(a, a, "--outptu", "x")
    assert "runs" in refusal(a, "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluation.json", "{"),
        ("evaluation.json", "[1]"),
        ("evaluation.json", '{"simulator": {"task": 3}, "protocol": "random", "policy": "p"}'),
        (
            "evaluation.json",
            '{"simulator": {"task": "x"}, "protocol": "random", "policy": "p", "seed": [0]}',
        ),
        ("episodes.jsonl", '{"policy": 3}\n'),
        ("episodes.jsonl", "[" * 100_000 + "\n"),
    ],
)
def test_what_is_damaged_is_one_line(name, content, tmp_path, refusal):
    a, b = evaluation(tmp_path / "a", "01"), evaluation(tmp_path / "b", "01")
    (tmp_path / "b" / name).write_text(content)
    assert str(tmp_path / "b" / name) in refusal(a, b)


def test_nothing_is_written_to_results_that_are_still_being_played(tmp_path, result):
    a, b = evaluation(tmp_path / "a", "0101"), evaluation(tmp_path / "b", "0111")
    path = tmp_path / "b" / "episodes.jsonl"
    path.write_bytes(path.read_bytes() + b'{"policy": "netw')  # a line that is being written
    (tmp_path / "b" / ".lock").unlink()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert result(a, b)["tasks"][0]["count"] == 4
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before


def test_the_plan(main, result, capsys):
    main(["plan=10"])
    assert "408" in capsys.readouterr().out
    rows = result("plan=10")["plan"]
    assert [row["unpaired"] for row in rows if row["first"] == 0.5] == [388]


def test_the_text_has_every_row_and_verdict(tmp_path, main, capsys):
    for task in ("move_near", "open_drawer"):
        evaluation(tmp_path / "a" / task, "01" * 10, task)
        evaluation(tmp_path / "b" / task, "11" * 10, task, checkpoint="b" * 16)
    main(["a", "b"])
    text = capsys.readouterr().out
    assert text.count("move_near") == 2  # in the table and the verdicts
    assert text.count("B is better") == 2
    assert "checkpoint bbbbbbbb" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_command_line_itself(tmp_path):
    a, b = evaluation(tmp_path / "it's a,b", "01"), evaluation(tmp_path / "${c}=d", "01")
    command = [sys.executable, str(ROOT / "eval" / "compare.py"), a, b]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "move_near" in done.stdout
    assert done.stderr == ""


def test_common_episodes_are_paired_in_order():
    def record(policy, seed, error=None):
        return EpisodeRecord(policy, "move_near", "only", seed, {"x": 1}, error=error)

    first = [record("a", seed) for seed in (3, 1, 2)]
    second = [record("b", 2), record("b", 3), record("b", 1, error="crash"), record("b", 9)]
    assert common_episodes(first, second) == [(first[0], second[1]), (first[2], second[0])]


def test_from_python(tmp_path):
    a, b = evaluation(tmp_path / "a", "01"), evaluation(tmp_path / "b", "01")
    comparison = compare([a, b], "last_step", Goal(0.2))
    assert comparison.rows[0].verdict == "not_enough"
    assert Candidate.find("A", a).evaluations[0].task == "move_near"
    with pytest.raises(UserError):
        compare([a, str(tmp_path / "nowhere")], "last_step", Goal())
