"""The doctor names the fault of a data set, and nothing else; a sound one has none."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimplerInstall, simulator_spec
from selfflow_robotics.evaluation.doctor.action_statistics import (
    PUBLISHED,
    check_gripper,
    check_range,
)
from selfflow_robotics.evaluation.doctor.diagnosis import (
    MotionEvidence,
    ReplayEvidence,
    diagnose,
)
from selfflow_robotics.evaluation.doctor.examine import check_pictures, examine
from selfflow_robotics.evaluation.doctor.policy_costs import (
    FlippedPolicy,
    flips,
    with_statistics,
)
from selfflow_robotics.evaluation.doctor.recordings import read_recordings
from selfflow_robotics.evaluation.doctor.replay import find_starts
from selfflow_robotics.evaluation.doctor.report import examination_json, examination_text
from selfflow_robotics.evaluation.doctor.tasks import robot_in, task_of
from selfflow_robotics.evaluation.doctor.trained import Trained
from selfflow_robotics.robot.normalize import NormStats
from selfflow_robotics.rollouts.demonstrations import CollectConfig, collect
from selfflow_robotics.training.checkpoint import save_checkpoint
from tests.faulty_sets import faulty
from tests.rlds_sets import GOLDEN_SET

ROOT = Path(__file__).parents[2]
# Fault of the copy -> the convention that is named, by the evidence of the motion.
MOTION = {
    "gripper": "gripper action",
    "order": "quaternion order",
    "rate": "control rate",
    "rotvec": "rotation action",
    "frame": "frame of the action",
}
WIDOWX = MOTION | {"order": "zero of the state's rotation"}
PICTURES = {
    "bgr": "BGR",
    "square": "cropped to a square",
    "letterbox": "padded to a square",
    "crop": "cropped to 90% of each side",
    "rotated": "rotated by 180 degrees",
}


def published(name: str) -> NormStats:
    low, high = PUBLISHED[name]
    zeros = np.zeros(7)
    return NormStats(np.append(low, 0.0), np.append(high, 1.0), zeros, zeros, 0, 0)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Of each robot: an undisturbed demonstration on the tabletop, and its simulator."""
    made = {}
    for task in ("pick_coke_can", "carrot_on_plate"):
        config = CollectConfig(
            task=task,
            num_episodes=1,
            recovery=0.0,
            processes=1,
            root=str(tmp_path_factory.mktemp(task)),
        )
        spec = simulator_spec("tabletop", task, SimplerInstall())
        made[task] = (collect(config), SimulatorClient(spec))
    yield made
    for _, client in made.values():
        client.close()


def judged(client, directory):
    """The diagnosis by replay."""
    found = read_recordings(str(directory), "train", 8)
    evidence = ReplayEvidence(client, find_starts(client, found, task_of(found), 1))
    motion = MotionEvidence(found.episodes, robot_in(found))
    return diagnose(evidence, found.layout, motion)


def faults(diagnosis):
    return [one.convention for one in diagnosis.findings if one.verdict == "fault"]


@pytest.mark.parametrize("task", ["pick_coke_can", "carrot_on_plate"])
def test_sound_recordings_have_no_fault_and_repeat_exactly(recorded, task):
    directory, client = recorded[task]
    found = read_recordings(str(directory), "train", 8)
    examination = examine(found, client, task_of(found), 1)
    assert examination.faults == []
    assert max(examination.diagnosis.as_read.errors) < 1e-3
    assert examination.diagnosis.as_read.successes == 1
    verdicts = {one.convention: one.verdict for one in examination.findings}
    assert verdicts["images"] == verdicts["frame of the action"] == "ok"
    assert verdicts["action statistics"] == "not checked"
    json.dumps(examination_json(examination))
    assert "not checked" in examination_text(examination)


@pytest.mark.parametrize("fault", MOTION)
def test_a_replay_names_the_fault(recorded, tmp_path, fault):
    directory, client = recorded["pick_coke_can"]
    diagnosis = judged(client, faulty(directory, tmp_path, fault))
    assert faults(diagnosis) == [MOTION[fault]]
    # Dropped actions are gone; all else is exactly as it was.
    assert diagnosis.mended.errors[0] < (0.1 if fault == "rate" else 1e-3)
    assert diagnosis.findings[0].margin > 2


@pytest.mark.parametrize("fault", ["gripper", "order", "rate"])
def test_so_it_does_with_the_other_robot_and_features(recorded, tmp_path, fault):
    directory, client = recorded["carrot_on_plate"]
    assert faults(judged(client, faulty(directory, tmp_path, fault))) == [WIDOWX[fault]]


@pytest.mark.parametrize("fault", PICTURES)
def test_pictures_name_the_fault(recorded, tmp_path, fault):
    directory, client = recorded["pick_coke_can"]
    found = read_recordings(str(faulty(directory, tmp_path, fault)), "train", 8)
    finding = check_pictures(client, find_starts(client, found, task_of(found), 1))
    assert (finding.verdict, finding.found) == ("fault", PICTURES[fault])


def test_recordings_of_simpler_are_replayed_without_it(recorded):
    _, client = recorded["pick_coke_can"]
    found = read_recordings(str(GOLDEN_SET), "train", 8)
    examination = examine(found, client, task_of(found), 1)
    assert examination.faults == []
    position, rotation, _ = examination.diagnosis.as_read.errors
    assert position < 2e-3
    assert rotation < 5e-3
    # It looks different here.
    (images,) = (one for one in examination.findings if one.convention == "images")
    assert images.verdict == "not checked"


@pytest.mark.parametrize("fault", [None, *MOTION])
def test_the_recorded_motion_names_the_fault_without_a_simulator(tmp_path, fault):
    directory = GOLDEN_SET if fault is None else faulty(GOLDEN_SET, tmp_path, fault)
    found = read_recordings(str(directory), "train", 64)
    diagnosis = diagnose(MotionEvidence(found.episodes, "google_robot"), found.layout)
    assert faults(diagnosis) == ([] if fault is None else [MOTION[fault]])
    if fault == "gripper":  # only a simulator tells which of the two is reversed
        assert diagnosis.findings[0].alike


def test_two_faults_are_both_named(recorded, tmp_path):
    directory, client = recorded["pick_coke_can"]
    twice = faulty(faulty(directory, tmp_path / "one", "gripper"), tmp_path / "two", "order")
    assert set(faults(judged(client, twice))) == {"gripper action", "quaternion order"}


@pytest.mark.parametrize(
    ("own", "other"),
    [("fractal20220817_data", "bridge_dataset"), ("bridge_dataset", "fractal20220817_data")],
)
def test_statistics_of_another_robot(own, other):
    # Tasks of one robot differ in their range.
    low, high = np.multiply(PUBLISHED[own], np.array([0.6, 0.5, 0.7, 1.5, 1.0, 0.8]))
    arm = np.random.Generator(np.random.PCG64(0)).uniform(low, high, (500, 6))
    actions = np.append(arm, np.ones((500, 1)), axis=1)
    assert check_range(NormStats.compute(actions), actions).verdict == "ok"
    assert check_range(published(own), actions).verdict == "ok"
    finding = check_range(published(other), actions)
    assert finding.verdict == "fault"
    assert other in finding.found
    assert check_range(published(other), actions[:20]).verdict == "not checked"


def test_statistics_of_a_reversed_gripper():
    actions = np.zeros((100, 7))
    actions[:80, 6] = 1.0
    stats = NormStats.compute(actions)
    assert check_gripper(stats, actions).verdict == "ok"
    actions[:, 6] = 1.0 - actions[:, 6]
    assert check_gripper(stats, actions).verdict == "fault"
    actions[:30, 6] = 1.0 - actions[:30, 6]
    assert check_gripper(stats, actions).verdict == "not checked"


def test_a_network_of_another_robot():
    found = read_recordings(str(GOLDEN_SET), "train", 64)
    actions = np.concatenate([one.actions for one in found.episodes])
    trained = Trained("run", NormStats.compute(actions), {"task": "carrot_on_plate"})
    examination = examine(found, None, "pick_coke_can", 1, trained, "sim=none")
    assert [one.convention for one in examination.faults] == ["robot of the network"]


class Watching:
    """A policy that keeps what it sees and always gives the same chunk."""

    name, privileged = "watching", False
    chunk = np.array([[0.1, 0.0, 0.0, 0.2, 0.3, 0.4, 1.0], [0.0, 0.1, 0.0, 0.0, 0.0, 0.0, -1.0]])

    def begin(self, slot, episode):
        pass

    def act(self, slots, observations, infos=None):
        self.seen = observations
        return [self.chunk]


def test_flips_change_what_a_policy_sees_or_does():
    stats = published("fractal20220817_data")
    table = {one.name: one for one in flips("google_robot", stats)}
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 200
    turned = np.array([0, 0, 0, 0, 0, 2**-0.5, 2**-0.5, 0.0])  # 90 degrees about z
    observation = {"image": image, "proprio": turned, "instruction": "pick coke can"}

    def played(flip):
        policy = Watching()
        (chunk,) = FlippedPolicy(policy, table[flip]).act([0], [observation])
        return chunk, policy.seen[0]["image"]

    chunk, seen = played("none")
    np.testing.assert_allclose(chunk, Watching.chunk, atol=1e-6)
    assert np.array_equal(seen, image)
    assert played("images BGR")[1][0, 0].tolist() == [0, 0, 200]
    assert played("images cropped to a square")[1].shape == image.shape
    assert played("gripper reversed")[0][:, 6].tolist() == [-1.0, 1.0]
    assert len(played("every second action dropped")[0]) == 1
    assert played("every action executed twice")[0][1, 0] == pytest.approx(0.1)
    np.testing.assert_allclose(
        played("actions in the tool's frame")[0][0, :6], [0, 0.1, 0, -0.3, 0.2, 0.4], atol=1e-6
    )
    assert played("statistics of bridge_dataset")[0][0, 0] < 0.02
    same = with_statistics(stats, stats)(Watching.chunk, observation)
    np.testing.assert_allclose(same, Watching.chunk, atol=1e-6)


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(ROOT / "eval" / "doctor.py"))["main"]
    main([str(GOLDEN_SET), "sim=none"])
    report = json.loads((tmp_path / "inspections/simpler_pick_coke_can/doctor.json").read_text())
    assert report["faults"] == []
    with pytest.raises(SystemExit) as exit_of:
        main([str(faulty(GOLDEN_SET, tmp_path, "frame")), "sim=none"])
    assert exit_of.value.code == 1
    assert "fault: frame of the action" in capsys.readouterr().out
    stats = tmp_path / "dataset_statistics.json"
    stats.write_text(json.dumps({"one": {}, "other": {}}))
    trained = {"actions": {"stats": published("fractal20220817_data").to_json()}}
    extra = {"network": {}, "codecs": trained, "provenance": {"task": "stack_cube"}}
    save_checkpoint(tmp_path / "run/checkpoints", 1, {"teacher": {"w": torch.zeros(1)}}, extra)
    with pytest.raises(SystemExit) as exit_of:
        main([str(GOLDEN_SET), "sim=none", "--checkpoint", str(tmp_path / "run")])
    assert exit_of.value.code == 1
    assert "fault: robot of the network: widowx" in capsys.readouterr().out
    for wrong in ([], [str(tmp_path)], [str(GOLDEN_SET), f"statistics={stats}"]):
        with pytest.raises(SystemExit) as exit_of:
            main([*wrong, "sim=none"])
        assert exit_of.value.code == 2
