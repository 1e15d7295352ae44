"""The command `python eval/simpler.py`, whole: on the tabletop, interrupted, and misused."""

import json
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selfflow_robotics.envs.simpler.preflight import INSTALL
from selfflow_robotics.envs.tasks.catalog import TASKS
from selfflow_robotics.evaluation.audit import InitialStates
from selfflow_robotics.evaluation.ledger import EpisodeRecord
from selfflow_robotics.evaluation.published import beside_result
from selfflow_robotics.evaluation.remarks import remarks
from selfflow_robotics.evaluation.report import Report
from selfflow_robotics.evaluation.verifying.verify import find_results, verify
from selfflow_robotics.policies.random import RandomPolicy

ROOT = Path(__file__).parents[2]


def _command(*arguments):
    return [sys.executable, str(ROOT / "eval" / "simpler.py"), *arguments]


@pytest.fixture
def environment(monkeypatch):
    for name in ("SIMPLER_ENV_PATH", "SIMPLER_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def run(tmp_path, environment):
    def run(*arguments):
        return subprocess.run(_command(*arguments), cwd=tmp_path, capture_output=True, text=True)

    return run


@pytest.fixture
def main(tmp_path, environment, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return runpy.run_path(str(ROOT / "eval" / "simpler.py"), run_name="imported")["main"]


def _folder(root):
    [folder] = (root / "runs" / "eval" / "random").iterdir()
    return folder


def test_it_measures_writes_down_and_repeats_nothing(run, tmp_path):
    arguments = ("--task", "pick_coke_can", "policy=random", "baselines=[expert]", "videos=1")
    first = run(*arguments, "num_episodes=1", "processes=1")
    assert first.returncode == 0, first.stderr
    folder = _folder(tmp_path)
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert [line["policy"] for line in lines] == ["random", "expert"]
    assert [line["error"] for line in lines] == [None, None]
    assert all((folder / line["video"]).stat().st_size > 1000 for line in lines)
    report = json.loads((folder / "report.json").read_text())
    assert report["policies"]["expert"]["all"]["count"] == 1
    assert report["simulator_provenance"]["simulator"] == "tabletop"
    assert "pick_coke_can on the MuJoCo tabletop, protocol random, seed 0" in first.stdout
    again = run(*arguments, "num_episodes=2", "processes=2")
    assert again.returncode == 0, again.stderr
    assert len((folder / "episodes.jsonl").read_text().splitlines()) == 4
    assert (
        json.loads((folder / "report.json").read_text())["policies"]["random"]["all"]["count"] == 2
    )
    done = run(*arguments, "num_episodes=2", "processes=1")
    assert "expert: all 2 episodes are done" in done.stdout


def test_interrupted_it_says_so_and_goes_on(run, tmp_path, environment):
    arguments = ["policy=random", "baselines=[]", "videos=0", "num_episodes=12", "processes=1"]

    def listen() -> None:
        """Tests that a shell started in the background inherit an ignored Ctrl-C."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        _command(*arguments), cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=listen
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("runs/eval/random/*/episodes.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.decode().splitlines()[-1] == "interrupted; repeat the command to resume"
    path = _folder(tmp_path) / "episodes.jsonl"
    before = path.read_text()
    assert run(*arguments).returncode == 0
    assert path.read_text().startswith(before)
    assert len(path.read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--task", "pick_cola_can"], "unknown task 'pick_cola_can'; did you mean pick_coke_can"),
        (["--task", "move_neer"], "unknown task 'move_neer'; did you mean move_near"),
        (["policy=expert", "num_episodes=-1"], "num_episodes must be at least 1, got -1"),
        (["policy=expert", "replan_steps=0"], "replan_steps must be at least 1, got 0"),
        (["policy=expert", "joint=true"], "joint is for a network; remove it, or policy=expert"),
        (["policy=random", "--checkpoint", "runs/a"], "checkpoint is for a network"),
        (["policy=random", "instruction=''"], "instruction is for a network"),
        (["num_episode=3"], "unknown config key 'num_episode'; did you mean num_episodes or"),
        (["policy=exprt"], "policy: unknown value 'exprt'; did you mean expert?"),
        ([], "no finetune run in runs/ has a checkpoint; train one or pass --checkpoint PATH"),
        (["--checkpoint", "nowhere"], "no checkpoint at nowhere: "),
        (
            ["policy=random", "protocol=visual_matching"],
            "protocol=visual_matching recolours SIMPLER's robot and needs sim=simpler",
        ),
        (
            ["policy=random", "protocol=variant_aggregation"],
            "protocol=variant_aggregation plays in SIMPLER's other surroundings and needs",
        ),
        (
            ["--task", "pick_object", "policy=random", "protocol=variant_aggregation"],
            "SIMPLER's variant aggregation has no episodes of pick_object",
        ),
        (
            ["policy=random", "num_episodes=1", "baselines=[]", "output=/dev/null/results"],
            "cannot write the evaluation to /dev/null/results: Not a directory",
        ),
    ],
)
def test_a_mistake_is_one_line(main, capsys, arguments, line):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1


def test_actions_that_are_not_numbers_are_an_error_of_their_episode(main, capsys, monkeypatch):
    chunk = np.full((6, 7), np.nan, np.float32)
    monkeypatch.setattr(RandomPolicy, "act", lambda self, slots, *_: [chunk for _ in slots])
    with pytest.raises(SystemExit) as stop:
        main(["policy=random", "baselines=[]", "videos=0", "num_episodes=1", "processes=1"])
    assert stop.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "policy 'random' returned an action that is not finite" in last


def test_hydras_options_go_with_flags(main, capsys):
    main(["--task", "pick_coke_can", "--cfg", "job"])
    assert "task: pick_coke_can" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--task", "pick_coke_can", "--checkpoint", "nowhere", "-m", "seed=0,1"])
    assert "no checkpoint at nowhere" in capsys.readouterr().err


def test_without_simpler_it_says_what_to_install(main, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["policy=expert", "sim=simpler"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert INSTALL in error
    last = error.splitlines()[-1]
    assert last == "error: SIMPLER's checkout was not found: set SIMPLER_ENV_PATH or simpler.path="


def test_shards_together_are_the_whole_evaluation(main, tmp_path, capsys):
    arguments = ["policy=random", "baselines=[]", "videos=1", "num_episodes=4", "processes=1"]
    for shard in ("1/2", "2/2"):
        main([*arguments, f"shard={shard}"])
    folder = _folder(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["shard_1_of_2", "shard_2_of_2"]
    capsys.readouterr()
    main(arguments)
    assert "all 4 episodes are done" in capsys.readouterr().out
    merged = json.loads((folder / "report.json").read_text())
    main([*arguments, "output=alone"])
    alone = json.loads((tmp_path / "alone" / "report.json").read_text())
    assert merged == alone
    assert merged["policies"]["random"]["all"]["count"] == 4


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2"])
def test_a_wrong_shard_is_one_line(main, capsys, shard):
    with pytest.raises(SystemExit) as stop:
        main([f"shard={shard}"])
    assert stop.value.code == 2
    assert "shard" in capsys.readouterr().err


def test_several_tasks_have_a_folder_each_and_a_summary(main, tmp_path, capsys):
    arguments = ["policy=random", "baselines=[]", "videos=0", "num_episodes=1", "processes=1"]
    main(["--task", "pick_coke_can,move_near", *arguments])
    folders = sorted((tmp_path / "runs" / "eval" / "random").iterdir())
    assert [folder.name.rpartition("-")[0] for folder in folders] == [
        "summary",
        "tabletop-move_near-random",
        "tabletop-pick_coke_can-random",
    ]
    assert (folders[0] / "summary.md").is_file()
    checks = [check for folder in find_results(tmp_path) for check in verify(folder)]
    assert [check for check in checks if check.differences] == []
    for wrong in (["pick_coke_can,move_neer"], ["pick_coke_can,move_near", "output=here"]):
        with pytest.raises(SystemExit) as stop:
            main(["--task", *wrong, *arguments])
        assert stop.value.code == 2
        assert "move_near" in capsys.readouterr().err


def test_a_task_that_cannot_be_played_is_named_before_another_is_played(main, tmp_path, capsys):
    """And a shard may be empty, as long as other tasks have episodes in it."""
    arguments = ["policy=random", "baselines=[]", "videos=0", "processes=1", "protocol=quick"]
    with pytest.raises(SystemExit) as stop:
        main(["--task", "pick_coke_can,pick_object", *arguments])
    assert stop.value.code == 2
    assert "pick_object has no official grid" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    drawer = ["--task", "close_top_drawer,pick_coke_can", "shard=10/10"]
    main([*drawer, *arguments])
    [_, only] = sorted((tmp_path / "runs" / "eval" / "random").iterdir())
    assert only.name.startswith("tabletop-pick_coke_can-quick")
    with pytest.raises(SystemExit):
        main([*drawer[:1], "close_top_drawer", *drawer[2:], *arguments])
    assert "shard=10/10 has no episodes of close_top_drawer" in capsys.readouterr().err


def test_a_task_with_drawers_remarks_that_simpler_rasterised_them():
    [remark] = remarks(TASKS["open_drawer"], "simpler", {}, None)
    assert "rasterised" in remark
    assert remarks(TASKS["open_drawer"], "tabletop", {}, None) == ()
    assert remarks(TASKS["pick_coke_can"], "simpler", {}, None) == ()


def test_published_rates_are_remarks():
    real = {"dataset": "fractal20220817_data"}
    task = TASKS["move_near"]
    found = beside_result(task, "simpler", "visual_matching", 240, real)
    [remark, left_out] = remarks(task, "simpler", {}, real, published=found)
    assert "RT-1-X 31.7 %" in remark
    assert "CogACT" in left_out
    [told] = remarks(task, "simpler", {}, real, instruction="pick coke can")
    assert "pick coke can" in told


def test_variants_that_were_left_out_are_trouble():
    records = [EpisodeRecord("random", "pick_object", "apple", 0, start="one")]
    report = Report("pick_object", "SIMPLER", "random", 0, ("apple",), {"random": records})
    assert report.troubles() == []
    [trouble] = replace(report, left_out={"spoon": "a file is missing"}).troubles()
    assert "spoon was not evaluated: a file is missing" in trouble


def test_only_a_grid_must_not_repeat_initial_states():
    records = [EpisodeRecord("random", "open_drawer", "top", n, start="same") for n in range(3)]
    for protocol, troubled in (("random", False), ("held_out", False), ("grid", True)):
        report = Report("open_drawer", "SIMPLER", protocol, 0, ("top",), {"random": records})
        assert report.initial_states() == InitialStates(count=3, different=1)
        assert "repeat the initial state" in report.to_text()
        assert bool(report.troubles()) == troubled
