"""The expert that opens a drawer and puts the apple in; the rule is tested in test_rules.py."""

import numpy as np
import pytest

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tabletop.env import TabletopEnv
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.envs.tasks.plan import Pick, PutInto
from selfflow_robotics.policies.expert import ScriptedExpert, decide
from selfflow_robotics.policies.motion import Progress

TASK = get_task("place_apple_in_closed_top_drawer")


@pytest.fixture(scope="module")
def env():
    return TabletopEnv(TASK, (16, 20))


def test_the_apple_waits_for_its_words(env):
    spec, expert = EpisodeSpec(TASK.name, "b0", 0), ScriptedExpert()
    info = env.begin(spec.seed, {"variant": spec.variant})
    apple, still = info["state"]["object_pose"], []
    expert.begin(0, spec)
    while env.observe()["instruction"] == "open top drawer":
        action = expert.act([0], [{}], [info])[0][0]
        info = env.advance(action)
        np.testing.assert_allclose(info["state"]["object_pose"], apple, atol=1e-3)
        still.append(np.abs(action[:6]).max() < 0.01)
    assert info["elapsed_steps"] == 101
    assert info["state"]["drawers"][0] > 0.15
    assert all(still[-20:])
    # Now it goes.
    assert np.abs(expert.act([0], [{}], [info])[0][0][:3]).max() > 0.05


@pytest.mark.parametrize("variant", TASK.variants)
def test_a_drawer_that_opens_after_the_words_have_changed_does(env, variant):
    """Then the hand does not wait, and picks from where it let go of the drawer."""
    spec, expert = EpisodeSpec(TASK.name, variant, 0), ScriptedExpert()
    info = env.begin(spec.seed, {"variant": variant})
    expert.begin(0, spec)
    idle, opened = 75, 0
    while info["elapsed_steps"] < TASK.max_episode_steps and not info["success"]:
        late = info["elapsed_steps"] >= idle
        action = expert.act([0], [{}], [info])[0][0] if late else np.zeros(7, np.float32)
        info = env.advance(action)
        opened = opened or info["elapsed_steps"] * (info["state"]["drawers"][0] > 0.15)
    assert opened > 100
    assert info["success"]


def test_an_apple_that_was_lost_is_picked_again(env):
    info = env.begin(0, {})
    plan = TASK.plan(info["episode"])
    progress = Progress(plan, done=3, closing_steps=11, opening_steps=2)
    assert isinstance(plan[progress.done], PutInto)
    action = decide(progress, info)  # it lies on the cabinet, far from the hand
    assert not action[:6].any()
    assert isinstance(plan[progress.done], Pick)
    assert progress.closing_steps == progress.opening_steps == 0


def test_a_round_object_is_grasped_the_same_however_it_rolled(env):
    info = env.begin(0, {})
    state = info["state"]
    tool = state["tool_pose"].copy()
    tool[:3] = state["object_pose"][:3] + np.array([0.0, 0.0, 0.05])
    actions = []
    for quaternion in ([1, 0, 0, 0], [0.5**0.5, 0.5**0.5, 0, 0], [0.5, 0.5, 0.5, 0.5]):
        rolled = np.append(state["object_pose"][:3], quaternion)
        seen = {**info, "state": {**state, "object_pose": rolled, "tool_pose": tool}}
        actions.append(decide(Progress(TASK.plan({}), done=2), seen))
    np.testing.assert_array_equal(actions[0], actions[1])
    np.testing.assert_array_equal(actions[0], actions[2])
