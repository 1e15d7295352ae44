"""The commands as processes: a policy is served and evaluated, and mistakes are one line."""

import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("msgpack", reason="the extra 'serve' is not installed")

from selfflow_robotics.evaluation.ledger import Ledger
from tests.servers import openpi_server

ROOT = Path(__file__).parents[2]
INTEROP = ROOT / "tests" / "interop"
SHORT = ["sim=tabletop", "baselines=[]", "videos=0", "processes=1"]
# Interpreters of environments that have these packages, which ours cannot have (numpy < 2).
OPENPI_PYTHON, VLA_EVAL_PYTHON = "OPENPI_PYTHON", "VLA_EVAL_PYTHON"


def command(script, *arguments):
    return [sys.executable, str(ROOT / "eval" / script), *arguments]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path[1:]]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("SELFFLOW_TOKEN", raising=False)

    def run(*arguments, **more):
        environment = {**os.environ, **more}
        done = subprocess.run(
            arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@contextmanager
def served(folder, *arguments):
    """(address, process) of eval/serve.py."""
    process = subprocess.Popen(
        command("serve.py", "port=0", *arguments),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if found := re.search(r"ws://\S+:\d+", line):
                break
        else:
            raise AssertionError(process.stderr.read())
        yield found[0], process
    finally:
        process.kill()
        process.communicate()


MINE = """
import numpy as np
class Mine:
    def begin(self, slot, episode): pass
    def act(self, slots, observations, infos):
        return [np.zeros((40, 7), np.float32) for _ in slots]
"""


def test_a_policy_is_served_evaluated_and_stopped(run, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    with served(tmp_path, "policy=mine:Mine") as (url, process):
        for policy, name in ((f"remote:{url}", "remote"), ("mine:Mine", "Mine")):
            arguments = ["num_episodes=1", "replan_steps=40", f"policy={policy}", f"output={name}"]
            done = run(*command("simpler.py", *SHORT, *arguments))
            assert done.returncode == 0, done.stderr
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "3 requests" in out  # the first one is the probe's
    (settings, theirs), (_, ours) = (Ledger.read(tmp_path / name) for name in ("remote", "Mine"))
    assert settings["remote"]["address"] == url
    [remote], [local] = theirs.records, ours.records
    assert (remote.start, remote.steps, remote.error) == (local.start, local.steps, None)


@pytest.mark.parametrize(("value", "code", "steps"), [(0.0, 0, 80), (float("nan"), 1, 0)])
def test_a_server_of_openpi_plays_whole_episodes_and_nan_is_an_error(
    value, code, steps, run, tmp_path
):
    with openpi_server(lambda message: {"actions": [[value] * 7] * 10}) as (port, asked):
        arguments = [f"policy=remote:ws://127.0.0.1:{port}", "num_episodes=1", "output=x"]
        done = run(*command("simpler.py", *SHORT, "replan_steps=10", *arguments))
    assert done.returncode == code, done.stderr
    [record] = Ledger.read(tmp_path / "x")[1].records
    assert record.steps == steps
    assert len(asked) == 1 + max(1, steps // 10)  # the first one is the probe's
    assert asked[0]["observation/primary_image"].shape == (256, 320, 3)
    assert (record.error is None) == (code == 0)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("simpler.py", ["policy=remote:ws://127.0.0.1:1"]),
        ("simpler.py", ["policy=nobodys:Mine"]),
        ("simpler.py", ["policy=experts"]),
        ("serve.py", ["policy=random"]),
        ("serve.py", ["policy=noop", "host=0.0.0.0"]),
        ("serve.py", ["policy=noop", "checkpoint=runs/x"]),
        ("serve.py", ["policy=noop", "port=70000"]),
        ("serve.py", ["policy=noop", "certificate=a.pem", "private_key=b.pem"]),
        ("serve.py", ["policy=selfflow_robotics.policies.expert:ScriptedExpert"]),
        ("serve.py", ["--checkpoint", "nowhere"]),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(script, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SELFFLOW_TOKEN", raising=False)
    main = runpy.run_path(str(ROOT / "eval" / script), run_name="imported")["main"]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")


def test_a_port_that_is_taken_is_one_line(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(*command("serve.py", "policy=noop", f"port={port}"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def other_python(variable, package):
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"set {variable} to a Python with {package}, gymnasium and scipy")
    return python


def test_openpis_client_plays_whole_episodes(run, tmp_path):
    python = other_python(OPENPI_PYTHON, "openpi-client")
    with served(tmp_path, "policy=noop") as (url, _):
        script = str(INTEROP / "openpi_episodes.py")
        arguments = [url, "80", "pick_coke_can", sys.executable, "1", "2"]
        done = run(python, script, *arguments, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert [episode["shape"] for episode in told["episodes"]] == [[80, 7]] * 2


def test_vla_evals_harness_plays_whole_episodes(run, tmp_path):
    python = other_python(VLA_EVAL_PYTHON, "vla-eval")
    with served(tmp_path, "policy=noop") as (url, _):
        config = {
            "server": {"url": url},
            "output_dir": str(tmp_path / "out"),
            "benchmarks": [
                {
                    "benchmark": "tests.interop.vla_eval_tabletop:TabletopBenchmark",
                    "episodes_per_task": 2,
                    "params": {"python": sys.executable},
                }
            ],
        }
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        arguments = ["run", "--no-docker", "--yes", "--no-save", "-c", "config.yaml"]
        done = run(python, "-m", "vla_eval.cli.main", *arguments, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert "(0/2)" in done.stdout
    assert "Spec mismatch" not in done.stderr


def test_our_evaluation_asks_a_model_server_of_vla_eval(run, tmp_path):
    python = other_python(VLA_EVAL_PYTHON, "vla-eval")
    server = subprocess.Popen(
        [python, str(INTEROP / "vla_eval_server.py")], stdout=subprocess.PIPE, text=True
    )
    try:
        port = int(server.stdout.readline())
        policy = f"policy=remote:vla-eval+ws://127.0.0.1:{port}"
        done = run(*command("simpler.py", *SHORT, policy, "num_episodes=1", "output=x"))
    finally:
        server.kill()
        server.communicate()
    assert done.returncode == 0, done.stderr
    [record] = Ledger.read(tmp_path / "x")[1].records
    assert (record.error, record.steps) == (None, 80)
