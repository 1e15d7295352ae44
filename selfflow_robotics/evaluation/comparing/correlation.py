"""Do two worlds rank policies alike? SIMPLER's two measures, with bootstrap intervals.

Of the same policies, one success rate each in the world that is judged (a simulator) and in the one
that is the reference (the real robot, or a simulator that is trusted more).

Source: SimplerEnv, simpler_env/utils/metrics.py, and section V of arXiv 2405.05941.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfflow_robotics.evaluation.statistics import Interval
from selfflow_robotics.rng import numpy_generator

NUM_RESAMPLES = 5_000
_TINY = 1e-8  # as in SimplerEnv


@dataclass(frozen=True)
class Score:
    """A policy's success in one world."""

    successes: float  # a published rate times its number of episodes
    count: int

    @property
    def rate(self) -> float:
        """0 to 1."""
        return self.successes / self.count


@dataclass(frozen=True)
class Agreement:
    """How well the judged world agrees with the reference, over some policies."""

    mmrv: float
    mmrv_95: Interval
    pearson: float
    pearson_95: Interval


def pearson(judged: Sequence[float], reference: Sequence[float]) -> float:
    """Pearson's correlation of the success rates, -1 to 1; 1 if they differ by a constant.

    If all rates of one world are equal, it is 0. Raises ValueError if the lengths differ.
    """
    first, second = _rates(judged, reference)
    first, second = first - first.mean(), second - second.mean()
    if np.array_equal(first, second):
        return 1.0
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / (size + _TINY))


def mmrv(judged: Sequence[float], reference: Sequence[float]) -> float:
    """Mean maximum rank violation, 0 (same order) to 1.

    For each policy, the largest difference in the reference to a policy that the judged world ranks
    on the other side of it; then the mean over policies. It is not symmetric. Raises ValueError if
    the lengths differ.
    """
    judged_rates, true_rates = _rates(judged, reference)
    gaps = np.abs(true_rates[:, None] - true_rates)
    violated = (judged_rates[:, None] > judged_rates) != (true_rates[:, None] > true_rates)
    return float((gaps * violated).max(1).mean())


def ranks(rates: Sequence[float]) -> list[float]:
    """1 for the highest rate; equal rates share the mean of their ranks."""
    values = np.asarray(rates, np.float64)
    above = (values[None] > values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return (above + (equal + 1) / 2).tolist()


def agreement(judged: Sequence[Score], reference: Sequence[Score]) -> Agreement:
    """Both measures with 95 % percentile intervals of a bootstrap over episodes.

    Each policy's episodes are drawn anew in both worlds. The policies stay the same: the intervals
    say nothing about other policies. Raises ValueError for fewer than two policies.
    """
    if len(judged) < 2:
        raise ValueError(f"a ranking needs at least two policies, got {len(judged)}")
    draw = numpy_generator("correlation bootstrap", 0)
    drawn = [
        np.stack([draw.binomial(s.count, s.rate, NUM_RESAMPLES) / s.count for s in scores], 1)
        for scores in (judged, reference)
    ]
    rates = [[score.rate for score in scores] for scores in (judged, reference)]
    found = []
    for measure in (mmrv, pearson):
        values = [measure(one, other) for one, other in zip(*drawn, strict=True)]
        low, high = np.quantile(values, (0.025, 0.975))
        found += [measure(*rates), (float(low), float(high))]
    return Agreement(*found)


def _rates(first: Sequence[float], second: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    if len(first) != len(second):
        raise ValueError(f"as many rates of both, got {len(first)} and {len(second)}")
    return np.asarray(first, np.float64), np.asarray(second, np.float64)
