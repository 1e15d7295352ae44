"""RT-1, policy and environment actions: each way of writing becomes the others and back."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from selfflow_robotics.robot.actions import (
    environment_from_policy,
    policy_from_environment,
    policy_from_rt1,
    rt1_from_policy,
)


def gripper_of(command):
    zeros = np.zeros((len(command), 3))
    return policy_from_rt1(zeros, zeros, np.array(command, np.float32)[:, None])[:, 6].tolist()


@pytest.mark.parametrize(
    ("command", "is_open"),
    [
        ([0, 0, 0], [1, 1, 1]),  # never told: open
        ([0, 1, 0, 0], [1, 0, 0, 0]),
        ([0, 0, -1, 0], [0, 0, 1, 1]),  # first told to open: was closed
        ([1, 0, -1, 0, 1], [0, 0, 1, 1, 0]),
        ([0.1, 0.05, -0.1, 0], [1, 1, 1, 1]),  # within the dead zone: nothing
        ([0.11, 0], [0, 0]),
        ([-0.5], [1]),
    ],
)
def test_relative_gripper_becomes_a_state(command, is_open):
    assert gripper_of(command) == is_open


def test_relative_gripper_equals_a_plain_loop():
    generator = np.random.Generator(np.random.PCG64(0))
    for _ in range(200):
        command = generator.choice([0, 0.05, 1, -1], size=generator.integers(1, 30))
        told = [c for c in command if abs(c) > 0.1]
        state = 1.0 if not told else float(told[0] > 0)
        expected = []
        for c in command:
            state = state if abs(c) <= 0.1 else float(c < 0)
            expected.append(state)
        assert gripper_of(command) == expected


def test_rt1_round_trip():
    generator = np.random.Generator(np.random.PCG64(1))
    for _ in range(100):
        length = generator.integers(1, 20)
        vectors = generator.normal(size=(length, 7)).astype(np.float32)
        vectors[:, 6] = generator.integers(0, 2, length)
        back = policy_from_rt1(*rt1_from_policy(vectors))
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back, vectors)


@pytest.mark.parametrize("open_before", [True, False])
@pytest.mark.parametrize("length", range(1, 6))
def test_every_gripper_survives_the_relative_form(open_before, length):
    """Both for readers, which carry commands forward, and for a robot that executes them."""
    for states in itertools.product([0.0, 1.0], repeat=length):
        vectors = np.zeros((length, 7), np.float32)
        vectors[:, 6] = states
        relative = rt1_from_policy(vectors, open_before)
        np.testing.assert_array_equal(policy_from_rt1(*relative), vectors)
        state, executed = float(open_before), []
        for command in relative[2][:, 0]:
            state = state if command == 0 else float(command < 0)
            executed.append(state)
        assert tuple(executed) == states


def test_an_episode_that_starts_closed_says_so_at_once():
    vectors = np.zeros((3, 7))
    assert rt1_from_policy(vectors)[2].tolist() == [[1], [0], [0]]
    vectors[:, 6] = 1
    assert rt1_from_policy(vectors)[2].tolist() == [[0], [0], [0]]
    assert rt1_from_policy(vectors, open_before=False)[2].tolist() == [[-1], [0], [0]]


def test_environment_action_turns_the_same_way():
    generator = np.random.Generator(np.random.PCG64(2))
    vectors = generator.uniform(-1, 1, size=(4, 5, 7)).astype(np.float32)
    actions = environment_from_policy(vectors)
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions[..., :3], vectors[..., :3])
    done = Rotation.from_rotvec(actions[..., 3:6].reshape(-1, 3))
    asked = Rotation.from_euler("xyz", vectors[..., 3:6].reshape(-1, 3))
    np.testing.assert_allclose(done.as_matrix(), asked.as_matrix(), atol=1e-6)
    np.testing.assert_array_equal(actions[..., 6], np.where(vectors[..., 6] > 0.5, -1, 1))


def test_environment_round_trip():
    generator = np.random.Generator(np.random.PCG64(3))
    vectors = generator.uniform(-1, 1, size=(4, 5, 7)).astype(np.float32)
    vectors[..., 6] = generator.integers(0, 2, size=(4, 5))
    back = policy_from_environment(environment_from_policy(vectors))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back[..., [0, 1, 2, 6]], vectors[..., [0, 1, 2, 6]])
    np.testing.assert_allclose(back[..., 3:6], vectors[..., 3:6], atol=1e-5)


@pytest.mark.parametrize(
    ("command", "is_open"),
    [
        ([0, 0], [1, 1]),  # an episode starts open
        ([0, 1, 0, 0], [1, 0, 0, 0]),  # "go on" keeps it closed
        ([1, 0, -1, 0, 1], [0, 0, 1, 1, 0]),
        ([-1, 0.3], [1, 0]),
    ],
)
def test_sticky_gripper_becomes_a_state(command, is_open):
    actions = np.zeros((len(command), 7))
    actions[:, 6] = command
    assert policy_from_environment(actions)[:, 6].tolist() == is_open
