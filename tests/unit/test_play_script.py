"""The command eval/play.py: its mistakes are one line, and a run from start to Ctrl-C."""

import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("websockets", reason="the extra 'serve' is not installed")

from benchmarks import play
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.models.network import Network
from selfflow_robotics.training.checkpoint import save_checkpoint
from tests.fractal import FRACTAL_STATS
from tests.networks import robot_network, robot_record
from tests.playing import CONFIG, Tab

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "eval" / "play.py"


def checkpoint(folder, *roles):
    torch.manual_seed(0)
    tensors = {"teacher": Network(robot_network(CONFIG)).state_dict()}
    data = {"simulator": "tabletop", "task": "pick_coke_can,move_near", "image_size": [16, 24]}
    record = robot_record(CONFIG, roles, FRACTAL_STATS, data)
    return save_checkpoint(folder / "checkpoints", 1, tensors, record)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("run"), "policy", "world_model")


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    """The error line of the command, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SELFFLOW_TOKEN", raising=False)
    main = runpy.run_path(str(SCRIPT), run_name="imported")["main"]

    def refused(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments)])
        assert stop.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert list(tmp_path.iterdir()) == []
        return line

    return refused


def test_mistakes_are_one_line(refused, trained, tmp_path_factory):
    assert "no_such_task" in refused("--task", "no_such_task", "--checkpoint", trained)
    assert "spoon_on_towel" in refused("--task", "spoon_on_towel", "--checkpoint", trained)
    only_policy = checkpoint(tmp_path_factory.mktemp("other"), "policy")
    assert "world_model" in refused("--checkpoint", only_policy)
    assert "nowhere" in refused("--checkpoint", "nowhere")
    assert "window" in refused("--checkpoint", trained, "window=4")
    assert "SELFFLOW_TOKEN" in refused("--checkpoint", trained, "host=0.0.0.0")
    for setting in ("fps=0", "num_steps=0", "port=70000", "seed=-1", "max_tabs=0", "window=0"):
        assert setting.partition("=")[0] in refused("--checkpoint", trained, setting)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("--checkpoint", trained, f"port={port}", "record=false")
        assert str(port) in line


def test_a_run_ends_with_a_data_set(trained, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    environment.pop("SELFFLOW_TOKEN", None)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--checkpoint", str(trained), "port=0", "name=mine"],
        cwd=tmp_path,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = re.search(r"http://127.0.0.1:(\d+)", process.stdout.readline())
        with Tab(int(address[1])) as tab:
            hello, _ = tab.receive()
            assert hello["tasks"] == ["pick_coke_can", "move_near"]
            tab.begin("move_near", hello["seed"])
            tab.act("ArrowUp")
            tab.act("ArrowUp")
            process.send_signal(signal.SIGINT)  # with the tab still open
            output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "mine/0.1.0" in output
    index = RldsIndex.open(tmp_path / "datasets" / "mine" / "0.1.0")
    assert (index.num_episodes, index.num_frames) == (1, 2)
    assert index.provenance["task"] == "pick_coke_can,move_near"


def test_the_benchmarks_mistakes_are_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        play.main(["--checkpoint", "nowhere"])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_held_keys_at_random_are_a_function_of_the_seed():
    actions = play.random_actions(7, 24)
    assert actions.shape == (24, 7)
    assert (actions == play.random_actions(7, 24)).all()
    assert (actions != play.random_actions(8, 24)).any()
