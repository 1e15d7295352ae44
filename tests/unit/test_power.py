"""The planned number of episodes is enough, and the verdict on them errs rarely."""

import functools

import numpy as np
import pytest
from scipy.stats import binomtest

from selfflow_robotics.evaluation.comparing.paired import PairedCounts
from selfflow_robotics.evaluation.comparing.power import (
    discordance,
    mcnemar_power,
    paired_episodes,
    paired_episodes_asymptotic,
    plan,
    unpaired_episodes,
)
from selfflow_robotics.evaluation.comparing.verdict import Goal, judge

GOAL = Goal(difference=0.1, power=0.8)


@pytest.mark.parametrize(
    ("first", "second", "for_80", "for_90"),
    [(0.5, 0.6, 388, 519), (0.7, 0.8, 294, 392), (0.8, 0.9, 199, 266), (0.9, 0.95, 435, 582)],
)
def test_unpaired_episodes(first, second, for_80, for_90):
    assert unpaired_episodes(first, second) == for_80
    assert unpaired_episodes(first, second, power=0.9) == for_90
    assert unpaired_episodes(second, first) == for_80


@pytest.mark.parametrize(
    ("first", "correlation", "expected"),
    [
        *((0.5, 0.0, 391), (0.5, 0.3, 275), (0.5, 0.6, 160)),
        *((0.7, 0.0, 296), (0.7, 0.3, 210), (0.7, 0.6, 124)),
        *((0.8, 0.0, 202), (0.8, 0.3, 146), (0.8, 0.6, 89)),
    ],
)
def test_paired_episodes(first, correlation, expected):
    share = discordance(first, first + 0.1, correlation)
    assert paired_episodes_asymptotic(0.1, share) == expected
    # The exact test is more cautious than the asymptotic one.
    exact = paired_episodes(0.1, share)
    assert expected <= exact <= 1.1 * expected
    assert mcnemar_power(exact, 0.1, share) >= 0.8 > mcnemar_power(expected - 10, 0.1, share)


def test_the_power_is_that_of_the_test_by_enumeration():
    count, difference, discordant = 30, 0.2, 0.4
    better, worse = (discordant + difference) / 2, (discordant - difference) / 2
    found = 0.0
    for wins in range(count + 1):
        for losses in range(count + 1 - wins):
            if wins + losses and binomtest(wins, wins + losses).pvalue <= 0.05:
                rest = count - wins - losses
                ways = np.prod(np.arange(1, count + 1, dtype=float)) / np.prod(
                    [np.prod(np.arange(1, n + 1, dtype=float)) for n in (wins, losses, rest)]
                )
                found += ways * better**wins * worse**losses * (1 - discordant) ** rest
    assert mcnemar_power(count, difference, discordant) == pytest.approx(found)


def test_the_share_of_discordant_episodes():
    assert discordance(0.5, 0.6, 0.0) == pytest.approx(0.5)
    assert discordance(0.5, 0.6, 1.0) == pytest.approx(0.1)  # as few as the rates permit
    assert discordance(0.9, 1.0, 0.3) == 0.1
    for wrong in ((0.5, 0.5), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ValueError, match="rates"):
            discordance(*wrong, 0.0)
    for difference, share in ((0.0, 0.5), (0.3, 0.2), (0.3, 1.1)):
        with pytest.raises(ValueError, match="discordant"):
            paired_episodes(difference, share)
    with pytest.raises(ValueError, match="more than"):
        paired_episodes(1e-4, 0.5)


@pytest.mark.parametrize("difference", [0.01, 0.1, 0.25, 0.9])
def test_the_plan_falls_with_the_correlation_and_rises_with_the_power(difference):
    rows, surer = plan(difference, 0.8), plan(difference, 0.9)
    assert rows
    for row, sure in zip(rows, surer, strict=True):
        assert row.second - row.first == pytest.approx(difference)
        counts = list(row.paired.values())
        assert counts == sorted(counts, reverse=True)
        assert 1 < row.unpaired <= sure.unpaired
        assert all(row.paired[r] < sure.paired[r] for r in row.paired)


@functools.cache
def _judge(only_first, only_second, count):
    return judge(PairedCounts(0, only_first, only_second, count - only_first - only_second), GOAL)


def _verdicts(first, second, correlation, count, pairs=1000):
    """The verdicts on simulated pairs of evaluations with `count` common episodes."""
    share = discordance(first, second, correlation) if first != second else None
    if share is None:
        share = 2 * first * (1 - first) * (1 - correlation)
    better, worse = (share + second - first) / 2, (share - second + first) / 2
    drawn = np.random.default_rng(0).multinomial(count, [worse, better, 1 - share], pairs)
    return [_judge(a, b, count)[0] for a, b, _ in drawn.tolist()]


@pytest.mark.parametrize("first", [0.5, 0.7, 0.8])
def test_a_difference_of_ten_points_is_found_with_the_planned_episodes(first):
    """Planned without knowing the correlation of the outcomes, which is 0.3."""
    count = paired_episodes(0.1, discordance(first, first + 0.1, 0.0))
    found = _verdicts(first, first + 0.1, 0.3, count)
    assert found.count("second") >= 800
    assert found.count("first") == 0


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6])
def test_the_planned_power_is_reached_if_the_correlation_is_known(correlation):
    count = paired_episodes(0.1, discordance(0.5, 0.6, correlation))
    found = _verdicts(0.5, 0.6, correlation, count, pairs=10_000)
    assert found.count("second") / 10_000 == pytest.approx(0.8, abs=0.0125)  # 3 standard errors


@pytest.mark.parametrize("rate", [0.5, 0.9])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_equal_policies_are_rarely_told_apart(rate, correlation):
    count = paired_episodes(0.1, discordance(0.5, 0.6, 0.0))
    found = _verdicts(rate, rate, correlation, count, pairs=10_000)  # by enumeration 3.1 to 4.2 %
    assert found.count("first") + found.count("second") <= 500


def test_the_verdict_says_how_many_more_episodes_would_do():
    verdict, more = judge(PairedCounts(40, 5, 10, 45), GOAL)
    assert verdict == "not_enough"
    assert 100 + more == paired_episodes(0.1, 16 / 102)
    # Several tests take more, and so does a smaller difference.
    assert judge(PairedCounts(40, 5, 10, 45), GOAL, num_tests=5)[1] > more
    assert judge(PairedCounts(40, 5, 10, 45), Goal(0.05))[1] > more
    assert judge(PairedCounts(400, 50, 52, 450), GOAL) == ("no_difference", 0)
    assert judge(PairedCounts(40, 0, 10, 50), GOAL) == ("second", 0)
    assert judge(PairedCounts(40, 10, 0, 50), GOAL) == ("first", 0)
    # An adjusted p-value overrules the test's own.
    assert judge(PairedCounts(40, 10, 0, 50), GOAL, num_tests=30, p=0.06)[0] == "not_enough"
    assert judge(PairedCounts(0, 0, 0, 0), GOAL)[0] == "not_enough"
