"""The scripted expert on the tabletop, alone and disturbed."""

import itertools

import numpy as np
import pytest

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.policies.demonstrator import MISS_LIFT_STEPS, Demonstrator, Player
from selfflow_robotics.policies.expert import ScriptedExpert, decide
from selfflow_robotics.policies.expert_objects import HOVER_M
from selfflow_robotics.policies.motion import TRANSLATION_GAIN, Progress
from selfflow_robotics.rollouts.engine import roll_out

TASK = get_task("pick_coke_can")


@pytest.fixture(scope="module")
def clients():
    with SimulatorClient(SimulatorSpec(image_size=(16, 20))) as client:
        yield [client]


def specs(seeds, **options):
    return [
        EpisodeSpec(TASK.name, variant, seed, options)
        for seed, variant in itertools.product(seeds, TASK.variants)
    ]


def test_expert_picks_every_variant(clients):
    results = list(roll_out(clients, specs(range(3)), ScriptedExpert(), stop_on_success=True))
    assert [result.success for result in results] == [True] * 9
    assert max(result.steps for result in results) < 35


@pytest.mark.parametrize("x", [-0.35, -0.12])
@pytest.mark.parametrize("y", [-0.02, 0.42])
def test_expert_reaches_the_corners(clients, x, y):
    episodes = specs([0], object_xy=[x, y])
    results = list(roll_out(clients, episodes, ScriptedExpert(), stop_on_success=True))
    assert all(result.success for result in results)


@pytest.mark.parametrize(("variant", "below"), [("standing", 0.0), ("horizontal", 0.007)])
def test_expert_aims_below_the_middle_of_a_lying_can(clients, variant, below):
    reset = clients[0].call(
        "reset", seed=0, observe=False, options={"variant": variant, "object_xy": [-0.2, 0.1]}
    )
    state = reset["info"]["state"]
    tool = state["tool_pose"].copy()
    tool[:3] = state["object_pose"][:3] + np.array([0.0, 0.0, 0.05])
    info = {"elapsed_steps": 0, "state": state | {"tool_pose": tool, "gripper": 0.3}}
    action = decide(Progress(TASK.plan({})), info)
    # A gripper that is not open yet waits HOVER_M above what it aims at.
    rise = HOVER_M - 0.05 - below
    np.testing.assert_allclose(action[2], TRANSLATION_GAIN * rise, atol=1e-6)


def test_success_lasts_to_the_end_of_the_episode(clients):
    (result,) = roll_out(clients, specs([5])[:1], ScriptedExpert())
    assert (result.steps, result.success) == (80, True)


def test_disturbed_expert_recovers(clients):
    policy = Demonstrator(recovery=1.0)
    episodes = specs(range(1_000_000, 1_000_004))
    prefixes, successes = [], 0
    for result in roll_out(clients, episodes, policy, stop_on_success=True, record="steps"):
        labels = policy.tracks.pop(result.spec.seed).labels
        assert len(labels) == result.steps
        prefixes.append(sum(label is None for label in labels))
        successes += result.success
        if prefixes[-1] == result.steps:  # the unrecorded prefix succeeded by chance
            continue
        clean = np.stack(labels[prefixes[-1] :])
        difference = result.trajectory.actions[prefixes[-1] :] - clean
        assert 0.003 < difference[:, :3].std() < 0.015  # the label does not have the noise
        assert not difference[:, 3:].any()
    assert successes >= 11
    assert min(prefixes) == 0
    assert max(prefixes) > 10  # a grasp that missed


@pytest.mark.parametrize(
    ("name", "variant", "closing_steps"),
    [("pick_coke_can", "standing", 5), ("stack_cube", "near", 4)],
)
def test_a_missed_grasp_closes_and_lifts_for_a_while(name, variant, closing_steps):
    task, policy, lifts = get_task(name), Demonstrator(recovery=1.0), set()
    body = task.bodies[0]
    pose = np.array([-0.2, 0.1, 0.9, *body.rests[variant].quaternion])
    for seed in range(60):
        policy.begin(0, EpisodeSpec(name, variant, seed))
        track = policy.tracks[seed]
        if track.miss is None:
            continue
        tool = np.append(pose[:3] + track.miss, [1.0, 0.0, 0.0, 0.0])  # where it aims at
        state = {"object_pose": pose, "tool_pose": tool, "gripper": 0.0, "base_pose": np.eye(7)[3]}
        info = {"elapsed_steps": 0, "state": state}
        actions = []
        while track.unrecorded_steps:
            actions.append(policy.act([0], [{}], [info])[0][0])
        assert all(action[6] == 1.0 for action in actions)
        assert not any(action[:6].any() for action in actions[:closing_steps])
        assert all(action[2] > 0 for action in actions[closing_steps:])
        lifts.add(len(actions) - closing_steps)
    assert lifts == set(range(*MISS_LIFT_STEPS))


def test_player_moves_and_says_so(clients):
    policy = Player()
    (result,) = roll_out(clients, specs([1])[:1], policy, max_steps=30, record="steps")
    np.testing.assert_array_equal(result.trajectory.actions, policy.tracks[1].labels)
    assert np.abs(result.trajectory.actions[:, :3]).mean() > 0.01
