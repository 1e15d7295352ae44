"""Signals, standard streams, what the machine refuses, and how commands are called."""

import os
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from selfflow_robotics.cli.app import hydra_app
from selfflow_robotics.commands import COMMANDS, command
from selfflow_robotics.errors import UserError
from selfflow_robotics.flow.solvers import check_num_steps
from selfflow_robotics.objective.roles import check_weights

ROOT = Path(__file__).parents[2]
# A command as `hydra_app` runs it; what it does is the first argument.
COMMAND = """
import os, signal, sys
from selfflow_robotics.cli.process import exit_code, own_process
from selfflow_robotics.errors import UserError
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimulatorSpec
try:
    with own_process():
        for number in map(int, sys.argv[2:]):
            os.kill(os.getpid(), number)
        print("x" * 100_000)
        if sys.argv[1] == "simulate":
            spec = SimulatorSpec("tests.fakes:FakeEnv", path=os.environ["PYTHONPATH"])
            with SimulatorClient(spec) as client:
                assert client.provenance()["simulator"] == "fake"
        print("worked", file=sys.stderr)
except KeyboardInterrupt as interrupt:
    sys.exit(exit_code(interrupt))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


def run(redirected, *arguments):
    words = [sys.executable, "-c", COMMAND, *arguments]
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirected}', "bash", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("redirected", "code", "words"),
    [
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 2, "cannot write to standard output"),
        ("| head -c 1; exit ${PIPESTATUS[0]}", 0, "worked"),
    ],
)
def test_standard_streams_that_take_nothing_cost_no_work(redirected, code, words):
    done = run(redirected, "simulate")
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_command_with_the_shells_exit_code(number):
    done = run("", "print", str(int(number)))
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


@dataclass(frozen=True)
class Config:
    name: str = "a"


@pytest.mark.parametrize(
    "act",
    [
        lambda: (Path("/tmp") / ("a" * 300)).mkdir(),
        lambda: Path("/tmp", "b" * 5000).exists(),
        lambda: Path("/dev/full").write_text("full"),
        lambda: (_ for _ in ()).throw(MemoryError("1 TiB")),
    ],
)
def test_what_the_machine_refuses_is_one_line(act, capsys, tmp_path, monkeypatch):
    # Any config that a command has will do: the values do not matter here.
    main = hydra_app("run_page", Config)(lambda config: act())
    monkeypatch.setattr("selfflow_robotics.cli.app.compose", lambda *_: [Config()])
    with pytest.raises(SystemExit) as stop:
        main([])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert len(error) < 400


def test_a_missing_file_is_our_own_mistake(monkeypatch):
    main = hydra_app("run_page", Config)(lambda config: Path("/no/such/file").read_text())
    monkeypatch.setattr("selfflow_robotics.cli.app.compose", lambda *_: [Config()])
    with pytest.raises(FileNotFoundError):
        main([])


@pytest.mark.parametrize(
    ("called", "typed"),
    [
        ("/usr/bin/selfflow-pretrain", "selfflow-finetune-rt1"),
        ("pretrain/run.py", "python finetune/rt1.py"),
        ("/somewhere/pretrain/run.py", "python /somewhere/finetune/rt1.py"),
        ("pytest", "python finetune/rt1.py"),
    ],
)
def test_the_next_command_is_spelled_as_this_one_was(called, typed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    assert command("finetune/rt1.py") == typed


def test_every_console_command_is_known():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(COMMANDS.values()) == set(project["scripts"])
    assert all((ROOT / script).is_file() for script in COMMANDS)


@pytest.mark.parametrize("weight", [1e308, -1.0, float("nan")])
def test_weights_beyond_use_are_refused(weight):
    with pytest.raises(UserError, match="'image'"):
        check_weights({"image": weight, "clip": 1.0})


@pytest.mark.parametrize("num_steps", [0, 10**9])
def test_numbers_of_solver_steps_beyond_use_are_refused(num_steps):
    with pytest.raises(UserError, match="num_steps must be from"):
        check_num_steps(num_steps)
