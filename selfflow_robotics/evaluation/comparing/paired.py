"""Two policies on the same episodes: the difference of their success rates.

Pairing removes what the episodes have in common: only those with different outcomes say which
policy is better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaln, ndtri

from selfflow_robotics.evaluation.statistics import Interval, mcnemar_p


@dataclass(frozen=True)
class PairedCounts:
    """The outcomes of two policies on the same episodes, counted. Raises ValueError if one is
    negative."""

    both: int  # episodes in which both succeed
    only_first: int
    only_second: int
    neither: int

    def __post_init__(self) -> None:
        if min(self.both, self.only_first, self.only_second, self.neither) < 0:
            raise ValueError(f"counts must not be negative, got {self}")

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> "PairedCounts":
        """Count outcomes of the same episodes. Raises ValueError if the lengths differ."""
        pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
        return cls(
            both=pairs.count((True, True)),
            only_first=pairs.count((True, False)),
            only_second=pairs.count((False, True)),
            neither=pairs.count((False, False)),
        )

    @property
    def count(self) -> int:
        """The number of episodes."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def discordant(self) -> int:
        """The number of episodes in which one succeeds and the other fails."""
        return self.only_first + self.only_second

    @property
    def successes(self) -> tuple[int, int]:
        """The first policy's, the second's."""
        return self.both + self.only_first, self.both + self.only_second

    @property
    def difference(self) -> float:
        """The second policy's rate minus the first's, in [-1, 1]; 0 without episodes."""
        return (self.only_second - self.only_first) / max(1, self.count)

    @property
    def interval(self) -> Interval:
        """95 % interval of the difference; see `tango_interval`."""
        return tango_interval(self.only_second, self.only_first, self.count)

    @property
    def p(self) -> float:
        """Two-sided p-value of the exact McNemar test."""
        return mcnemar_p(self.only_first, self.only_second)

    @property
    def e(self) -> float:
        """The e-value of the episodes so far; see `e_values`."""
        return math.exp(min(700.0, float(_log_e(self.only_first, self.only_second))))


def tango_interval(only_first: int, only_second: int, count: int) -> Interval:
    """95 % score interval of the difference of two paired proportions, first minus second (Tango,
    "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17, 1998); (-1, 1) without episodes.

    Fagerland, Lydersen & Laake (Statistics in Medicine 33, 2014) recommend it among others. Of
    those, it is the one that inverts McNemar's (asymptotic) test, so that interval and test rarely
    contradict each other, and it stays within [-1, 1] and has a width without discordant pairs.
    """
    if count == 0:
        return -1.0, 1.0
    z = float(ndtri(0.975))
    found = (only_first - only_second) / count

    def excess(difference: float, sign: int) -> float:
        return sign * _tango_score(only_first, only_second, count, difference) - z

    # The score falls from +inf at -1 to -inf at 1 and is 0 at the estimate.
    low = -1.0 if found == -1 else brentq(excess, -1 + 1e-12, found, args=(1,), xtol=1e-9)
    high = 1.0 if found == 1 else brentq(excess, found, 1 - 1e-12, args=(-1,), xtol=1e-9)
    return float(low), float(high)  # type: ignore[arg-type]


def _tango_score(only_first: int, only_second: int, count: int, difference: float) -> float:
    """Standardised distance of the estimate from a hypothetical `difference` in (-1, 1)."""
    distance = only_first - only_second - count * difference
    if distance == 0:
        return 0.0
    # The probability that only the second succeeds, most likely under the hypothesis: the larger
    # root of a q^2 + b q + c = 0 (Tango's equation 6).
    a = 2 * count
    b = (2 * count - only_first + only_second) * difference - only_first - only_second
    c = -only_second * difference * (1 - difference)
    q = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = count * (2 * q + difference * (1 - difference))
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def e_values(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The e-value that one policy is better than the other, after each episode.

    `first`, `second`: outcomes of the same episodes, bool [..., n]; the result is float64 [..., n].
    If both policies are equally good, an e-value *ever* reaches 1 / alpha with a probability of at
    most alpha, however often one looks and whatever makes one stop. So an evaluation may stop at
    the first e-value of 20 and claim a difference at 5 %.

    It is the wealth of a gambler who starts with 1 and bets at fair odds on which policy wins each
    discordant pair, averaged over all fixed bets: the likelihood ratio of a Beta(1, 1) mixture
    against a fair coin (Robbins, "Statistical methods related to the law of the iterated
    logarithm", 1970; Waudby-Smith & Ramdas, "Estimating means of bounded random variables by
    betting", JRSS B 86, 2024). The guarantee is Ville's inequality. Raises ValueError if the shapes
    differ.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape:
        raise ValueError(f"outcomes have different shapes: {first.shape} and {second.shape}")
    return np.exp(
        np.minimum(700, _log_e(np.cumsum(first & ~second, -1), np.cumsum(second & ~first, -1)))
    )


def _log_e(only_first: np.ndarray | int, only_second: np.ndarray | int) -> np.ndarray:
    discordant = np.add(only_first, only_second)
    wins = np.add(only_first, 1)
    return betaln(wins, discordant - wins + 2) + discordant * math.log(2)
