"""Intervals and tests for success rates."""

from collections.abc import Sequence

from scipy.stats import binomtest


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion (Wilson 1927); (0, 1) without trials.

    Its coverage is close to nominal down to 25 trials and for rates near 0 and 1, where the normal
    interval fails.
    """
    if count == 0:
        return 0.0, 1.0
    interval = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_p(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact McNemar test on paired outcomes of the same episodes.

    Only episodes with different outcomes count; under the null hypothesis each is a coin toss. 1.0
    if there are none. Raises ValueError if the lengths differ.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)
