"""Recording demonstrations: order, resumption, labels, and what the reader makes of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.testing import assert_allclose

from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.writer import RldsWriter
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.simpler.preflight import SimplerMissing
from selfflow_robotics.envs.spec import SimplerInstall
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.policies.demonstrator import Demonstrator
from selfflow_robotics.policies.expert import ScriptedExpert
from selfflow_robotics.rollouts import demonstrations
from selfflow_robotics.rollouts.demonstrations import (
    FIRST_SEED,
    PLAY_STEPS,
    VERSION,
    CollectConfig,
    collect,
    ensure_demonstrations,
)
from selfflow_robotics.rollouts.recorded_steps import recorded_steps
from tests.fakes import FakeEnv
from tests.rlds_sets import edit_record, shard

ROOT = Path(__file__).parents[2]
FAKE = CollectConfig(
    sim="tests.fakes:FakeEnv",
    simpler=SimplerInstall(path=str(ROOT)),
    num_episodes=4,
    image_size=(16, 20),
    processes=1,
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    config = replace(FAKE, root=str(tmp_path_factory.mktemp("datasets")), num_episodes=9)
    return config, RldsIndex.open(collect(config))


def metadata(directory):
    return json.loads((directory / "metadata.json").read_text())


def test_what_is_recorded(recorded):
    config, index = recorded
    assert (index.num_episodes, index.image_size) == (9, (16, 20))
    assert index.success.all()
    assert index.provenance["simulator"] == "fake"
    episodes = metadata(config.directory)["episodes"]
    assert [episode["variant"] for episode in episodes] == [*get_task(config.task).variants] * 3
    assert min(episode["seed"] for episode in episodes) >= FIRST_SEED
    assert {episode["unrecorded_steps"] > 0 for episode in episodes} == {True, False}
    assert index.instruction_of(0) == "pick coke can"


def test_a_task_that_is_named_twice_has_twice_the_episodes_in_all_its_variants():
    config = replace(FAKE, task="move_near,pick_coke_can,move_near", num_episodes=100)
    writer = SimpleNamespace(episodes_done=0)
    plan = demonstrations._Plan(config, cast(Any, writer), 100, 0, {})
    specs = [next(plan) for _ in range(30)]
    assert [spec.task for spec in specs[:4]] == [*config.task.split(","), "move_near"]
    for task, count in (("move_near", 20), ("pick_coke_can", 10)):
        variants = get_task(task).variants
        told = [spec.variant for spec in specs if spec.task == task]
        assert told == ([*variants] * 10)[:count]


def test_disturbed_episodes_are_told_apart_also_beside_damaged_ones(recorded, tmp_path):
    config, index = recorded
    told = [episode["disturbed"] for episode in metadata(config.directory)["episodes"]]
    assert set(told) == {True, False}
    assert index.disturbed.tolist() == told
    damaged = tmp_path / "damaged" / "0.1.0"
    shutil.copytree(config.directory, damaged)
    edit_record(shard(damaged), 2, spoil)
    assert RldsIndex.open(damaged).disturbed.tolist() == [*told[:2], *told[3:]]


def spoil(features):
    features["steps/action/world_vector"].float_list.value[0] = np.nan


def test_long_waits_are_not_recorded(tmp_path):
    config = CollectConfig(
        task="place_apple_in_closed_top_drawer", num_episodes=1, recovery=0.0, root=str(tmp_path)
    )
    index = RldsIndex.open(collect(config))
    words = [index.instruction_of(step) for step in range(index.num_frames)]
    [episode] = metadata(config.directory)["episodes"]
    assert index.num_frames + episode["unrecorded_steps"] <= get_task(config.task).max_episode_steps
    assert episode["unrecorded_steps"] > 30
    # It waits until the words change, after step 100.
    assert 100 - words.count("open top drawer") == episode["unrecorded_steps"] - 1
    assert words[-1] == "place apple into top drawer"


def test_labels_are_the_experts_answer_to_what_is_seen(recorded):
    """The picture of step t shows the state that the label of step t answers to."""
    config, index = recorded
    episode = next(
        number
        for number, data in enumerate(metadata(config.directory)["episodes"])
        if not data["unrecorded_steps"]
    )
    start, length = index.episode_start[episode], index.episode_length[episode]
    expert = ScriptedExpert()
    expert.begin(0, EpisodeSpec(config.task, "standing", 0))
    env = FakeEnv(get_task(config.task), (16, 20))
    drawn = metadata(config.directory)["episodes"][episode]
    state = env.begin(drawn["seed"], drawn["drawn"])["state"]
    for t in range(length):
        proprio = index.proprio[start + t]
        state["tool_pose"][:3] = proprio[:3]
        state["gripper"] = float(proprio[7])
        if proprio[7] > 0.7:
            state["object_pose"][:3] = proprio[:3]
        answer = expert.act([0], [{}], [{"state": state, "elapsed_steps": t}])[0][0]
        label = index.actions[start + t]
        assert_allclose(label[:3], answer[:3], atol=5e-3)
        assert label[6] == (answer[6] < 0)


def contents(config):
    return {path.name: path.read_bytes() for path in config.directory.iterdir()}


def test_number_of_processes_changes_no_byte(recorded, tmp_path):
    config, _ = recorded
    other = replace(config, root=str(tmp_path), processes=3)
    collect(other)
    assert contents(other) == contents(config)


def test_play_is_recorded_whatever_comes_of_it(tmp_path):
    index = RldsIndex.open(collect(replace(FAKE, root=str(tmp_path), mode="play")))
    assert index.episode_length.tolist() == [PLAY_STEPS] * 4
    assert set(index.actions[:, 6]) == {0.0, 1.0}


def test_several_tasks_are_recorded_in_turn(tmp_path):
    config = CollectConfig(
        task="pick_coke_can,move_near",
        num_episodes=4,
        recovery=0.0,
        image_size=(16, 20),
        processes=2,
        root=str(tmp_path),
    )
    index = RldsIndex.open(collect(config))
    assert config.dataset_name == "tabletop_pick_coke_can_move_near_4"
    assert [e["task"] for e in metadata(config.directory)["episodes"]] == [
        *("pick_coke_can", "move_near", "pick_coke_can", "move_near")
    ]
    assert "pick coke can" in index.instructions
    assert any(" near " in text for text in index.instructions)
    assert index.provenance["task"] == "pick_coke_can,move_near"
    digests = {own["physics_sha256"] for own in index.provenance["tasks"]}
    assert len(digests) == 2


def test_killed_and_repeated_is_the_same(recorded, tmp_path):
    """By four signals in turn, each after one or two episodes more."""
    config, _ = recorded
    other = replace(config, root=str(tmp_path))
    code = f"""
import os, signal
from selfflow_robotics.cli.process import exit_code, own_process
from selfflow_robotics.data.rlds.writer import RldsWriter
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimplerInstall
from selfflow_robotics.rollouts.demonstrations import CollectConfig, collect
write, start = RldsWriter.write_episode, SimulatorClient._start

def killed(self, *arguments):
    write(self, *arguments)
    if self.episodes_done == when:
        os.kill(os.getpid(), getattr(signal, number))

def told(self):
    start(self)
    print(self.pid, flush=True)

RldsWriter.write_episode, SimulatorClient._start = killed, told
for when, number in ((1, "SIGTERM"), (3, "SIGHUP"), (4, "SIGINT"), (6, "SIGKILL")):
    try:
        with own_process():
            collect({other!r})
    except KeyboardInterrupt as interrupt:
        assert exit_code(interrupt) == 128 + getattr(signal, number)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    simulators = done.stdout.split()
    assert len(simulators) == 4
    assert not (other.directory / "dataset_info.json").exists()
    with open_writer(other) as writer:
        assert writer.episodes_done == 6
    collect(other)
    assert contents(other) == contents(config)
    assert not any(is_running(pid) for pid in simulators)


def is_running(pid):
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def open_writer(config):
    provenance = {"simulator": "fake", "recording": config.recording}
    return RldsWriter(config.root, config.dataset_name, VERSION, config.image_size, provenance)


def fail_at_third_episode(monkeypatch, **fault):
    def attempt(self, number, attempt):
        spec = planned(self, number, attempt)
        return replace(spec, options=spec.options | fault) if number == 2 else spec

    planned = demonstrations._Plan._attempt
    monkeypatch.setattr(demonstrations._Plan, "_attempt", attempt)


def test_a_simulator_that_fails_once_changes_no_byte(recorded, tmp_path, monkeypatch):
    config, _ = recorded
    other = replace(config, root=str(tmp_path))
    marker = str(tmp_path / "failed")
    fail_at_third_episode(monkeypatch, fault="crash", at=3, only_before=marker)
    collect(other)
    assert Path(marker).exists()
    assert contents(other) == contents(config)


@pytest.mark.parametrize("processes", [1, 3])
def test_a_simulator_that_goes_on_failing_ends_the_recording(
    recorded, tmp_path, monkeypatch, processes
):
    config, _ = recorded
    other = replace(config, root=str(tmp_path), processes=processes)
    with monkeypatch.context() as patch:
        fail_at_third_episode(patch, fault="raise", at=3)
        with pytest.raises(UserError, match=r"episode 2 .*the fake robot is broken.* are kept"):
            collect(other)
    with open_writer(other) as writer:
        assert writer.episodes_done == 2
    collect(other)
    assert contents(other) == contents(config)


def test_the_gripper_before_the_recording_is_known():
    """A prefix that closes the gripper, and a recording that opens it at once."""
    closes, opens, goes_on = (np.array([0] * 6 + [g], np.float32) for g in (1, -1, 0))
    for prefix, labels, told in (
        ([closes, goes_on], [opens, goes_on, closes], [-1, 0, 1]),
        ([closes], [goes_on, opens], [1, -1]),  # closed at the start is always said
        ([closes, opens], [goes_on, closes], [0, 1]),
        ([], [goes_on, closes], [0, 1]),
    ):
        executed = np.stack([*prefix, *labels])
        observations = [{}] * (len(executed) + 1)
        steps = recorded_steps(observations, executed, True, [None] * len(prefix) + labels)
        assert [float(step["gripper_closedness_action"][0]) for step in steps] == told


def test_it_records_in_a_thread_too(recorded):
    config, _ = recorded
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(collect, config).result() == config.directory


def test_reuse_and_other_settings(recorded, capsys):
    config, _ = recorded
    start = time.perf_counter()
    assert ensure_demonstrations(config) == config.directory
    assert time.perf_counter() - start < 0.1  # starts no simulator
    assert f"using {config.directory}" in capsys.readouterr().out
    with pytest.raises(UserError, match="was recorded with recovery"):
        ensure_demonstrations(replace(config, name=config.dataset_name, recovery=0.1))
    with pytest.raises(UserError, match="was recorded with num_episodes"):
        ensure_demonstrations(replace(config, name=config.dataset_name, num_episodes=2))


@pytest.mark.parametrize(
    ("was", "now", "what"),
    [
        ({}, {"sim": "simpler", "image_size": (64, 80)}, "simulator=tabletop, not simpler"),
        ({}, {"renderer": "gl"}, "renderer=ray, not gl"),
        ({"mode": "play"}, {}, "mode=play, not demonstrations"),
    ],
)
def test_what_else_is_compared(tmp_path, was, now, what):
    """A finished tabletop set, as its metadata tells."""
    config = CollectConfig(root=str(tmp_path), name="mine", num_episodes=1, **was)
    config.directory.mkdir(parents=True)
    (config.directory / "dataset_info.json").write_text("{}")
    provenance = {"simulator": "tabletop", "task": config.task, "renderer": "ray"}
    found = {
        "provenance": {**provenance, "recording": config.recording},
        "image_size": [64, 80],
        "episodes": [{}],
    }
    (config.directory / "metadata.json").write_text(json.dumps(found))
    assert ensure_demonstrations(config) == config.directory
    with pytest.raises(UserError, match=what):
        ensure_demonstrations(CollectConfig(root=str(tmp_path), name="mine", num_episodes=1, **now))


def test_names_tell_settings_apart():
    names = [
        CollectConfig(**changes).dataset_name
        for changes in (
            {"recovery": 0.0},
            {"recovery": 0.5},
            {"renderer": "gl"},
            {"mode": "play"},
            {"sim": "simpler", "num_episodes": 600},
        )
    ]
    assert names == [
        "tabletop_pick_coke_can_300",
        "tabletop_pick_coke_can_recovery50_300",
        "tabletop_pick_coke_can_recovery50_gl_300",
        "tabletop_pick_coke_can_play_300",
        "simpler_pick_coke_can_recovery50_600",
    ]


def test_where_nothing_can_be_recorded(tmp_path):
    with pytest.raises(UserError, match="cannot write to"):
        collect(replace(FAKE, root="/proc/x"))
    with pytest.raises(UserError, match="failed to start"):
        collect(replace(FAKE, root=str(tmp_path), sim="tests.nowhere:Env"))
    nowhere = SimplerInstall(path=str(tmp_path))
    with pytest.raises(SimplerMissing):
        collect(replace(FAKE, root=str(tmp_path), sim="simpler", simpler=nowhere))


def test_an_unfit_expert_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(Task, "hold_steps", 1000)
    monkeypatch.setattr(Demonstrator, "_step", lambda self, track, state: np.zeros(7, np.float32))
    with pytest.raises(UserError, match=r"episode 0 \(pick_coke_can, standing\) failed 20"):
        collect(replace(FAKE, root=str(tmp_path), num_episodes=1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_episodes": 0},
        {"recovery": 1.5},
        {"seed": 5},
        {"renderer": "gl"},
        {"processes": 0},
        {"task": "pick_coke"},
    ],
)
def test_bad_settings(wrong):
    with pytest.raises(UserError):
        replace(FAKE, **wrong)
