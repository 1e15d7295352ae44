"""Intervals for success rates and their averages, and p-values over several comparisons.

`paired` compares two policies on the same episodes; `power` says how many episodes that takes.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.stats import binomtest

from selfflow_robotics.rng import numpy_generator

Interval = tuple[float, float]

NUM_RESAMPLES = 10_000


def wilson_interval(successes: int, count: int) -> Interval:
    """Wilson's 95 % score interval of a proportion (Wilson 1927); (0, 1) without trials.

    Its coverage is close to nominal down to 25 trials and for rates near 0 and 1, where the normal
    interval fails.
    """
    return _proportion_interval(successes, count, "wilson")


def clopper_pearson_interval(successes: int, count: int) -> Interval:
    """The exact 95 % interval of a proportion (Clopper & Pearson 1934); (0, 1) without trials.

    It covers every rate with at least 95 %, so use it where a guarantee is claimed. It is wider
    than Wilson's, whose coverage is 95 % on average.
    """
    return _proportion_interval(successes, count, "exact")


def _proportion_interval(
    successes: int, count: int, method: Literal["wilson", "exact"]
) -> Interval:
    if count == 0:
        return 0.0, 1.0
    interval = binomtest(successes, count).proportion_ci(0.95, method=method)
    return float(interval.low), float(interval.high)


def stratified_mean(
    values: Sequence[float], intervals: Sequence[Interval], weights: Sequence[float]
) -> tuple[float, Interval]:
    """The weighted mean of independent estimates (a stratum each) and its interval.

    The interval combines those of the strata (Zou & Donner, "Construction of confidence limits
    about effect measures", Statistics in Medicine 27, 2008) and has their level. It is for these
    strata and no others. The weights should sum to 1.
    """
    mean = below = above = 0.0
    for value, (low, high), weight in zip(values, intervals, weights, strict=True):
        mean += weight * value
        below += (weight * (value - low)) ** 2
        above += (weight * (high - value)) ** 2
    return mean, (mean - math.sqrt(below), mean + math.sqrt(above))


def task_bootstrap_interval(values: Sequence[float]) -> Interval:
    """95 % percentile interval of a mean over tasks, with whole tasks drawn anew (the clustered
    bootstrap; Field & Welsh, "Bootstrapping clustered data", JRSS B 69, 2007).

    `values` has one estimate per task. Unlike `stratified_mean`, the interval is for the mean over
    other tasks like these; with fewer than about ten tasks it is too narrow. Raises ValueError for
    fewer than two tasks.
    """
    if len(values) < 2:
        raise ValueError(f"a bootstrap over tasks needs at least two, got {len(values)}")
    generator = numpy_generator("task bootstrap", 0)
    drawn = generator.integers(len(values), size=(NUM_RESAMPLES, len(values)))
    means = np.asarray(values, np.float64)[drawn].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar test on paired outcomes of the same episodes, from the numbers of
    those in which only one of the two succeeds.

    Only these count; under the null hypothesis each is a coin toss. 1.0 if there are none.
    """
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order (Holm, "A simple sequentially
    rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979).

    Rejecting those up to 0.05 makes any false rejection at most 5 % likely, however the tests
    depend on each other.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def share_text(share: float, interval: Sequence[float]) -> str:
    """`41.2 % [30.1, 52.3]`."""
    low, high = interval
    return f"{100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
