"""Action statistics and the normaliser, on numpy and torch."""

import json

import numpy as np
import pytest
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.normalize import ActionNormalizer, NormStats
from tests.fractal import FRACTAL_STATS


def random_actions(rows: int = 500) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(0))
    actions = generator.normal(scale=0.2, size=(rows, 7)).astype(np.float32)
    actions[:, 6] = generator.integers(0, 2, rows)
    return actions


def test_quantiles_go_to_plus_and_minus_one():
    normalizer = ActionNormalizer(FRACTAL_STATS)
    low, high = normalizer.normalize(FRACTAL_STATS.q01), normalizer.normalize(FRACTAL_STATS.q99)
    np.testing.assert_allclose(low, [-1] * 6 + [0], atol=1e-12)
    np.testing.assert_allclose(high, [1] * 6 + [1], atol=1e-12)


def test_released_formula():
    # clip(2 (x - q01) / (q99 - q01) - 1, -1, 1) on the arm, as OpenVLA writes it.
    actions = random_actions().astype(np.float64)
    q01, q99 = FRACTAL_STATS.q01[:6], FRACTAL_STATS.q99[:6]
    expected = np.clip(2 * (actions[:, :6] - q01) / (q99 - q01) - 1, -1, 1)
    ours = ActionNormalizer(FRACTAL_STATS).normalize_target(actions)
    np.testing.assert_allclose(ours[:, :6], expected, atol=1e-12)
    np.testing.assert_array_equal(ours[:, 6], actions[:, 6])


@pytest.mark.parametrize("factor", [0.5, 3.0, -20.0])
def test_actions_that_are_given_come_back_exactly_whatever_their_size(factor):
    normalizer = ActionNormalizer(NormStats.compute(random_actions()))
    given = random_actions(50) * np.float32(factor)
    tokens = normalizer.normalize(given)
    assert tokens.dtype == np.float32
    np.testing.assert_allclose(normalizer.unnormalize(tokens), given, atol=1e-6 * abs(factor))
    assert len(np.unique(tokens[:, 4])) == len(np.unique(given[:, 4]))


def test_targets_are_the_same_inside_the_range_and_clipped_outside():
    normalizer = ActionNormalizer(NormStats.compute(random_actions()))
    inside = random_actions(50) * np.float32(0.3)
    np.testing.assert_array_equal(normalizer.normalize_target(inside), normalizer.normalize(inside))
    outlier = np.array([22.0, -22.0, 0, 0, 0, 0, 1], np.float32)
    assert normalizer.normalize_target(outlier)[:2].tolist() == [1, -1]
    assert normalizer.normalize_target(outlier)[6] == 1


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_an_axis_with_one_value_stays_finite_and_small(value):
    actions = np.full((10, 7), value)
    normalizer = ActionNormalizer(NormStats.compute(actions))
    np.testing.assert_array_equal(normalizer.normalize(actions)[:, :6], 0)
    near = normalizer.normalize(actions + 0.005)[:, :6]
    assert np.abs(near).max() <= 0.5 + 1e-9


def test_torch_gives_the_same_numbers_and_keeps_the_precision():
    normalizer = ActionNormalizer(FRACTAL_STATS)
    actions = random_actions()
    tensor = torch.from_numpy(actions)
    np.testing.assert_array_equal(
        normalizer.normalize(tensor).numpy(), normalizer.normalize(actions)
    )
    np.testing.assert_array_equal(
        normalizer.unnormalize(tensor).numpy(), normalizer.unnormalize(actions)
    )
    assert normalizer.normalize(tensor.bfloat16()).dtype == torch.bfloat16


def test_an_unused_axis_is_not_blown_up():
    actions = np.zeros((100, 7))
    actions[:, 0] = 0.3
    normalizer = ActionNormalizer(NormStats.compute(actions))
    moved = np.array([0.305, 0.005, 0, 0.025, 0, 0, 1])
    np.testing.assert_allclose(normalizer.normalize(moved), [0.5, 0.5, 0, 0.5, 0, 0, 1], atol=1e-9)


def test_json_round_trip():
    value = json.loads(json.dumps(FRACTAL_STATS.to_json()))
    assert value["num_transitions"] == 3786400
    assert value["num_trajectories"] == 87212
    assert value["action"]["mask"] == [True] * 6 + [False]
    back = NormStats.from_json(value)
    for key in ("q01", "q99", "mean", "std"):
        np.testing.assert_array_equal(getattr(back, key), getattr(FRACTAL_STATS, key))
    value["action"]["p01"] = value["action"].pop("q01")
    np.testing.assert_array_equal(NormStats.from_json(value).q01, FRACTAL_STATS.q01)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"action": {"q01": [0.0] * 7}},
        {"action": FRACTAL_STATS.to_json()["action"] | {"q99": [0.0] * 6}},
        {"action": FRACTAL_STATS.to_json()["action"] | {"mean": [float("nan")] * 7}},
    ],
)
def test_bad_json_is_refused(value):
    with pytest.raises(UserError, match="action statistics"):
        NormStats.from_json(value)


def test_statistics_of_known_numbers():
    actions = np.repeat(np.linspace(0, 1, 101)[:, None], 7, axis=1)
    stats = NormStats.compute(actions, num_episodes=3)
    np.testing.assert_allclose(stats.q01, 0.01)
    np.testing.assert_allclose(stats.q99, 0.99)
    np.testing.assert_allclose(stats.mean, 0.5)
    assert (stats.num_transitions, stats.num_episodes) == (101, 3)


@pytest.mark.parametrize("actions", [np.zeros((0, 7)), np.full((2, 7), np.nan)])
def test_statistics_of_nothing_or_nan_are_refused(actions):
    with pytest.raises(UserError):
        NormStats.compute(actions)
