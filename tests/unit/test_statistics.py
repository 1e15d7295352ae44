"""Intervals cover what they promise; tests err as rarely as they promise."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from selfflow_robotics.evaluation.comparing.paired import PairedCounts, e_values, tango_interval
from selfflow_robotics.evaluation.statistics import (
    clopper_pearson_interval,
    holm_adjusted,
    stratified_mean,
    task_bootstrap_interval,
    wilson_interval,
)

RATES = np.linspace(0.02, 0.98, 97)


@pytest.mark.parametrize("count", [60, 100, 300])
@pytest.mark.parametrize(
    ("interval", "least"), [(wilson_interval, 0.92), (clopper_pearson_interval, 0.95)]
)
def test_coverage_of_a_rate(interval, least, count):
    bounds = np.array([interval(successes, count) for successes in range(count + 1)])
    inside = (bounds[:, 0] <= RATES[:, None]) & (RATES[:, None] <= bounds[:, 1])
    covered = (inside * binom.pmf(np.arange(count + 1), count, RATES[:, None])).sum(1)
    assert covered.min() >= least
    assert 0.94 < covered.mean() < 0.98


def test_clopper_and_pearsons_interval_contains_wilsons():
    assert clopper_pearson_interval(0, 0) == (0, 1)
    assert clopper_pearson_interval(8, 10) == pytest.approx((0.4439045, 0.9747893), abs=1e-6)
    for successes in range(2, 49):
        low, high = clopper_pearson_interval(successes, 50)
        wilson = wilson_interval(successes, 50)
        assert low < wilson[0] < wilson[1] < high


@pytest.mark.parametrize("count", [60, 100])
def test_coverage_of_a_paired_difference(count):
    pairs = [(a, b) for a in range(count + 1) for b in range(count + 1 - a)]
    first, second = np.array(pairs).T
    bounds = np.array([tango_interval(a, b, count) for a, b in pairs])
    covered = []
    for discordant in np.linspace(0.02, 0.98, 13):
        among = binom.pmf(first + second, count, discordant)
        for share in np.linspace(0, 1, 21):  # of the discordant pairs that only the first solves
            probability = among * binom.pmf(first, first + second, share)
            difference = discordant * (2 * share - 1)
            inside = (bounds[:, 0] <= difference + 1e-9) & (difference - 1e-9 <= bounds[:, 1])
            covered.append(probability[inside].sum())
    assert min(covered) >= 0.92
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)


def test_tangos_interval():
    # Fagerland, Lydersen & Laake (2014): airway reactivity, 1 and 7 discordant pairs of 21.
    assert tango_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert tango_interval(0, 0, 0) == (-1, 1)
    # Without discordant pairs: z^2 / (n + z^2).
    assert tango_interval(0, 0, 50) == pytest.approx((-0.0713476, 0.0713476), abs=1e-6)
    assert tango_interval(5, 0, 5)[1] == 1
    for first, second in ((3, 9), (0, 4), (40, 20)):
        low, high = tango_interval(first, second, 60)
        assert tango_interval(second, first, 60) == pytest.approx((-high, -low), abs=1e-6)


def test_tangos_interval_excludes_zero_where_mcnemars_asymptotic_test_rejects():
    for first in range(1, 40):
        for second in range(1, 40):
            rejects = (first - second) ** 2 / (first + second) > 1.959963985**2
            low, high = tango_interval(first, second, 80)
            assert (not low <= 0 <= high) == rejects


def test_counts_of_pairs():
    counts = PairedCounts.of([1, 1, 0, 0, 0], [1, 0, 1, 1, 0])
    assert counts == PairedCounts(both=1, only_first=1, only_second=2, neither=1)
    assert (counts.count, counts.discordant, counts.successes) == (5, 3, (2, 3))
    assert counts.difference == pytest.approx(0.2)
    assert counts.p == 1.0
    low, high = counts.interval
    assert low < counts.difference < high
    assert PairedCounts(0, 0, 0, 0).interval == (-1, 1)
    with pytest.raises(ValueError, match="negative"):
        PairedCounts(1, -1, 0, 0)


def test_holm_by_hand():
    # 4 x 0.005; 3 x 0.01; 2 x 0.03; then 0.04 may not be less than the one before.
    assert holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_adjusted([0.6, 0.7]) == [1, 1]
    assert holm_adjusted([0.04]) == [0.04]
    assert holm_adjusted([]) == []
    assert holm_adjusted([0.02, 0.02]) == pytest.approx([0.04, 0.04])


def test_holm_errs_in_at_most_five_percent_of_families():
    p_values = np.random.default_rng(0).uniform(size=(2000, 5))
    wrong = sum(min(holm_adjusted(list(family))) <= 0.05 for family in p_values)
    assert wrong / 2000 <= 0.065  # 0.05 and three standard errors


def test_the_stratified_mean_covers():
    strata, count, rates = 3, 60, (0.3, 0.6, 0.9)
    successes = np.random.default_rng(0).binomial(count, rates, (2000, strata))
    wilson = [wilson_interval(k, count) for k in range(count + 1)]
    covered = 0
    for drawn in successes.tolist():
        intervals = [wilson[k] for k in drawn]
        mean, (low, high) = stratified_mean([k / count for k in drawn], intervals, [1 / 3] * 3)
        assert low < mean < high
        covered += low <= np.mean(rates) <= high
    assert covered / 2000 >= 0.935


def test_one_stratum_is_its_own_mean():
    mean, interval = stratified_mean([0.4], [(0.3, 0.6)], [1.0])
    assert (mean, *interval) == pytest.approx((0.4, 0.3, 0.6))


def test_the_bootstrap_over_tasks():
    values = [0.1, 0.3, 0.4, 0.8, 0.9]
    low, high = task_bootstrap_interval(values)
    assert task_bootstrap_interval(values) == (low, high)
    assert min(values) < low < np.mean(values) < high < max(values)
    # Percentiles of a mean of draws with replacement are nearly those of a normal distribution.
    half = 1.96 * np.std(values) / np.sqrt(5)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.03)
    assert task_bootstrap_interval([0.5, 0.5]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="at least two"):
        task_bootstrap_interval([0.5])


def _outcomes(generator, shape, first, second, correlation):
    """Outcomes of two policies on the same episodes, bool [2, *shape]."""
    shared = correlation * np.sqrt(first * (1 - first) * second * (1 - second))
    both = first * second + shared
    kind = np.searchsorted([both, first, first + second - both], generator.uniform(size=shape))
    return np.stack([kind <= 1, (kind == 0) | (kind == 2)])  # both, only first, only second


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_the_sequential_test_rarely_raises_a_false_alarm(rate, correlation):
    generator = np.random.default_rng(0)
    first, second = _outcomes(generator, (1000, 600), rate, rate, correlation)
    alarms = (e_values(first, second) >= 20).any(-1)
    assert alarms.mean() <= 0.05


@pytest.mark.parametrize(
    ("second", "least_power", "most_episodes"),
    [(0.6, 0.65, 408), (0.7, 0.99, 0.3 * 408), (0.8, 0.99, 0.15 * 408)],
)
def test_the_sequential_test_saves_episodes(second, least_power, most_episodes):
    """Against the 408 episodes that are planned for a difference of 10 points from 50 %: if it is
    20 or 30 points, it stops after less than a third of them."""
    outcomes = _outcomes(np.random.default_rng(0), (1000, 600), 0.5, second, 0.0)
    stops = e_values(*outcomes) >= 20
    power = stops.any(-1).mean()
    episodes = np.where(stops.any(-1), stops.argmax(-1) + 1, stops.shape[-1]).mean()
    assert power >= least_power
    assert episodes <= most_episodes


def test_e_values_are_those_of_the_counts():
    first, second = np.array([1, 1, 0, 1, 1, 1, 1], bool), np.array([0, 0, 1, 1, 0, 0, 0], bool)
    found = e_values(first, second)
    assert found[0] == pytest.approx(1.0)  # one pair says nothing: 2 x 1/2
    assert found[1] == pytest.approx(4 / 3)
    assert found[3] == found[2]  # the same outcome says nothing
    assert found[-1] == pytest.approx(PairedCounts.of(first, second).e)
    stacked = e_values(np.stack([first, second]), np.stack([second, first]))
    np.testing.assert_allclose(stacked, np.stack([found, found]))
    assert np.isfinite(e_values(np.ones(5000, bool), np.zeros(5000, bool))).all()
    with pytest.raises(ValueError, match="shapes"):
        e_values(np.ones(3, bool), np.ones(4, bool))


def test_the_expected_e_value_is_one_without_a_difference():
    """By enumeration over the outcomes of 12 discordant pairs."""
    mean = sum(
        binom.pmf(wins, 12, 0.5) * PairedCounts(0, wins, 12 - wins, 0).e for wins in range(13)
    )
    assert mean == pytest.approx(1.0)
    assert binomtest(12, 12).pvalue < 0.05 < 20 < PairedCounts(0, 12, 0, 0).e
