"""What a foreign policy's first answers show of its conventions, and what they cannot show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.evaluation.doctor.first_answers import (
    check_declared,
    check_first_gripper,
    check_turns,
    check_units,
    fault_text,
    is_foreign,
    probe,
    probe_text,
)
from selfflow_robotics.messages.specs import GRIPPERS, OPENPI, ActionSpec
from selfflow_robotics.policies.expert import ScriptedExpert
from selfflow_robotics.policies.random import RandomPolicy

ROOT = Path(__file__).parents[2]
FAKE = SimulatorSpec(simulator="tests.fakes:FakeEnv", image_size=(8, 10), path=str(ROOT))
EPISODES = [EpisodeSpec("pick_coke_can", "standing", seed) for seed in range(4)]
OPENS, CLOSES = -1.0, 1.0


def chunk(gripper=OPENS, move=0.05, turn=0.1) -> np.ndarray:
    return np.array([[move, 0, 0, turn, 0, 0, gripper]] * 3)


class Foreign:
    """Answers always the same."""

    name, privileged = "foreign", False

    def __init__(self, answer):
        self.answer, self.begun = answer, []

    def begin(self, slot, episode):
        self.begun.append(episode.seed)

    def act(self, slots, observations, infos):
        assert infos is None
        assert observations[0]["image"].shape == (8, 10, 3)
        return [self.answer for _ in slots]


@pytest.fixture(scope="module")
def client():
    with SimulatorClient(FAKE) as client:
        yield client


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (chunk(), None),
        (chunk(gripper=0.0), None),
        (chunk(gripper=CLOSES), "gripper"),
        (chunk(move=0.9), "units"),
        (chunk(turn=20.0), "units"),
    ],
)
def test_wrong_conventions_are_found_before_an_episode_is_played(client, answer, fault):
    policy: Any = Foreign(answer)
    findings = probe(policy, client, EPISODES)
    assert policy.begun == [0, 1, 2]
    assert [one.convention for one in findings if one.verdict == "fault"] == [fault][: bool(fault)]
    assert [one.convention for one in findings if one.verdict == "not checked"] == ["rotation"]
    for one in findings:
        assert one.convention in probe_text(findings)
        if one.verdict == "fault":
            assert "probe=false" in fault_text(one)


def test_answers_that_are_no_chunks_are_left_to_the_engine(client):
    policy: Any = Foreign(np.full((2, 7), np.nan))
    assert probe(policy, client, EPISODES) == []


def test_a_simulator_that_fails_is_no_trouble(client):
    policy: Any = Foreign(chunk())
    broken = [EpisodeSpec("pick_coke_can", "standing", 0, {"fault": "raise", "at": 0})]
    assert probe(policy, client, broken) == []
    assert len(probe(policy, client, EPISODES)) == 3


@pytest.mark.parametrize(
    ("grippers", "expected", "verdict"),
    [
        ([CLOSES, CLOSES, CLOSES], [OPENS, 0.0, OPENS], "fault"),
        ([CLOSES, OPENS, CLOSES], [OPENS, OPENS, OPENS], "ok"),
        ([OPENS, OPENS, OPENS], [CLOSES, CLOSES, CLOSES], "not checked"),  # close_drawer
    ],
)
def test_the_gripper_is_judged_where_the_expert_opens_it(grippers, expected, verdict):
    found = check_first_gripper([chunk(gripper) for gripper in grippers], expected)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("robot", "move", "verdict"),
    [("google_robot", 0.2, "ok"), ("google_robot", 1.0, "fault"), ("widowx", 0.2, "fault")],
)
def test_steps_are_compared_with_those_of_the_robot(robot, move, verdict):
    assert check_units([chunk(move=move)], robot).verdict == verdict


@pytest.mark.parametrize("gripper", GRIPPERS)
def test_the_grippers_numbers_are_compared_with_the_declared_ones(gripper):
    fingers = GRIPPERS[gripper]
    spec = ActionSpec("axis_angle", gripper)
    good = np.concatenate([chunk(fingers.open), chunk(fingers.closed)])
    assert check_declared(spec, good).verdict == "ok"
    assert check_declared(OPENPI, chunk(-1.0)).verdict == "fault"
    assert check_declared(spec, chunk(255.0)).verdict == "fault"


def test_how_far_the_readings_of_rotations_are_apart_is_measured():
    small, large = chunk(turn=0.02), chunk(turn=0.5)
    for one in (small, large):
        one[:, 4] = one[:, 3]
    apart = [check_turns([one]).why for one in (small, large)]
    assert apart[0].endswith("at most 0.011 degrees a step")
    assert apart[1].endswith("at most 8.1 degrees a step")
    assert check_turns([chunk()]).why.endswith("at most 0 degrees a step")  # about one axis


def test_only_somebody_elses_policies_are_asked():
    policy: Any = Foreign(chunk())
    assert is_foreign(policy)
    assert not is_foreign(RandomPolicy())
    assert not is_foreign(ScriptedExpert())
