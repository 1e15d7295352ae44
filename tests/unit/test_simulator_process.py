"""The process a simulator runs in: protocol, faults, and that nothing outlives its parent."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from selfflow_robotics.envs import wire
from selfflow_robotics.envs.client import SimulatorClient, SimulatorError
from selfflow_robotics.envs.spec import SimulatorSpec, make_env
from selfflow_robotics.errors import UserError

ROOT = Path(__file__).parents[2]
FAKE = SimulatorSpec(simulator="tests.fakes:FakeEnv", image_size=(8, 10), path=str(ROOT))


@pytest.fixture
def client():
    with SimulatorClient(FAKE) as client:
        yield client


@pytest.mark.parametrize("dtype", sorted(wire.DTYPES))
def test_message_round_trip(dtype):
    value = {"a": np.arange(6).reshape(2, 3).astype(dtype), "b": [1, None, "x"], "c": np.float32(2)}
    message = wire.encode(value)
    header, body = wire.lengths(message[: wire.PREFIX.size])
    content = message[wire.PREFIX.size :]
    assert len(content) == header + body
    back = wire.decode(content[:header], content[header:])
    assert_array_equal(back["a"], value["a"])
    assert back["a"].dtype == value["a"].dtype
    assert (back["b"], back["c"]) == (value["b"], 2.0)


@pytest.mark.parametrize("array", [np.array([object()]), np.array(["text"]), np.array([1j])])
def test_other_dtypes_are_not_sent(array):
    with pytest.raises(TypeError, match="cannot be sent"):
        wire.encode({"a": array})


@pytest.mark.parametrize(
    "array",
    ['[0, "object", [1]]', '[0, "float32", [3]]', '[-4, "uint8", [1]]', '[9, "uint8", [1]]'],
)
def test_damaged_messages_are_refused(array):
    with pytest.raises(ValueError, match=r"refused|buffer|offset"):
        wire.decode(b'{"$array": %s}' % array.encode(), bytes(8))


def test_absurd_lengths_are_refused():
    with pytest.raises(ValueError, match="refused a message"):
        wire.lengths(b"\xff" * wire.PREFIX.size)


def test_same_as_in_process(client):
    env = make_env(FAKE)
    info = env.begin(3, {})
    start = client.call("reset", seed=3, options={})
    assert start["info"]["episode"] == info["episode"]
    assert_array_equal(start["observation"]["image"], env.observe()["image"])
    actions = np.random.Generator(np.random.PCG64(0)).normal(0, 0.03, (5, 7)).astype(np.float32)
    states = [env.advance(action)["state"]["tool_pose"] for action in actions]
    reply = client.call("run", actions=actions)
    assert_array_equal([i["state"]["tool_pose"] for i in reply["infos"]], states)
    assert len(reply["observations"]) == 1
    assert_array_equal(reply["observations"][0]["image"], env.observe()["image"])


@pytest.mark.parametrize(("observe", "count"), [("all", 4), ("last", 1), ("none", 0)])
def test_renders_only_what_is_asked_for(client, observe, count):
    assert client.call("reset", seed=0, options={}, observe=False)["observation"] is None
    reply = client.call("run", actions=np.zeros((4, 7), np.float32), observe=observe)
    assert len(reply["observations"]) == count
    assert [info["elapsed_steps"] for info in reply["infos"]] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("fault", "cause"), [("crash", "signal 11"), ("hang", "no answer"), ("raise", "is broken")]
)
def test_fault_is_an_error_and_restart_mends_it(client, fault, cause, monkeypatch):
    with SimulatorClient(FAKE) as other:
        other.call("reset", seed=1, options={})
        client.call("reset", seed=1, options={"fault": fault, "at": 2})
        monkeypatch.setattr(client, "spec", replace(FAKE, timeout_s=0.5))
        actions = np.zeros((3, 7), np.float32)
        with pytest.raises(SimulatorError, match=cause):
            client.call("run", actions=actions)
        monkeypatch.undo()
        client.restart()
        assert client.call("reset", seed=1, options={})["info"]["elapsed_steps"] == 0
        assert len(other.call("run", actions=actions)["infos"]) == 3


def test_bad_action_is_the_simulators_error(client):
    client.call("reset", seed=0, options={})
    with pytest.raises(SimulatorError, match="must be finite"):
        client.call("run", actions=np.full((1, 7), np.nan, np.float32))


def test_forgotten_answers_do_not_return(client):
    client.submit("reset", seed=0, options={})
    client.submit("provenance")
    assert client.result()["simulator"] == "fake"


def test_unknown_simulator_and_interpreter_are_the_users_error():
    moon = SimulatorClient(SimulatorSpec(simulator="moon"))
    with moon, pytest.raises(UserError, match="unknown simulator 'moon'"):
        moon.call("provenance")
    with pytest.raises(UserError, match="/no/such/python"):
        SimulatorClient(SimulatorSpec(python="/no/such/python"))


@pytest.mark.parametrize("fault", [None, "hang"])
def test_dies_with_its_parent(fault):
    code = f"""
import time
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimulatorSpec
client = SimulatorClient(SimulatorSpec(simulator="tests.fakes:FakeEnv", path={str(ROOT)!r}))
client.call("provenance")
client.submit("reset", seed=0, options=dict(fault={fault!r}))
print(client.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(50):
        if not _is_running(pid):
            return
        time.sleep(0.1)
    pytest.fail("the simulator's process outlived its parent")


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_worker_needs_no_torch(tmp_path):
    code = "import sys, selfflow_robotics.envs.worker as w; print('torch' in sys.modules)"
    run = [sys.executable, "-c", code]
    done = subprocess.run(
        run,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
