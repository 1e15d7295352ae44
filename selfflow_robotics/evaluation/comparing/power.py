"""How many episodes are needed to see a difference between two policies.

Power is the probability that a two-sided test at level `alpha` finds the difference. All rates and
differences are in [0, 1].
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import binom

MOST_EPISODES = 1_000_000


def unpaired_episodes(first: float, second: float, power: float = 0.8) -> int:
    """Episodes of each policy if they play different ones, for the 5 % test of two proportions with
    a pooled variance (Fleiss, Levin & Paik, "Statistical methods for rates and proportions", 2003).

    Raises ValueError if the rates are equal or outside [0, 1].
    """
    _check(first, second)
    mean = (first + second) / 2
    null, true = 2 * mean * (1 - mean), first * (1 - first) + second * (1 - second)
    z_alpha, z_power = ndtri(0.975), ndtri(power)
    needed = (z_alpha * math.sqrt(null) + z_power * math.sqrt(true)) ** 2 / (first - second) ** 2
    return math.ceil(needed - 1e-9)


def discordance(first: float, second: float, correlation: float) -> float:
    """The share of episodes with different outcomes, given both rates and the correlation of the
    outcomes on the same episode (phi).

    A correlation that these rates do not permit gives the nearest possible share. Raises ValueError
    if the rates are equal or outside [0, 1].
    """
    _check(first, second)
    shared = correlation * math.sqrt(first * (1 - first) * second * (1 - second))
    share = first * (1 - second) + second * (1 - first) - 2 * shared
    # The nearest share that the rates permit; rounded, since 0.2 - 0.1 is less than 0.1.
    least, most = abs(first - second), min(first + second, 2 - first - second)
    return round(min(max(share, least), most), 12)


@functools.lru_cache(maxsize=4096)
def paired_episodes(
    difference: float, discordant: float, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Episodes if both policies play the same ones, for McNemar's exact test.

    `difference` of the success rates; `discordant`, the share of episodes with different outcomes,
    is at least as large. Starts from `paired_episodes_asymptotic` and adds episodes until the exact
    power suffices. Raises ValueError for impossible shares.
    """
    count = paired_episodes_asymptotic(difference, discordant, power, alpha)
    while mcnemar_power(count, difference, discordant, alpha) < power:
        count += max(1, count // 1000)
    return count


def paired_episodes_asymptotic(
    difference: float, discordant: float, power: float = 0.8, alpha: float = 0.05
) -> int:
    """The same for McNemar's asymptotic test, in closed form (Connor, "Sample size for testing
    differences in proportions for the paired-sample design", Biometrics 43, 1987)."""
    _check_shares(difference, discordant)
    z_alpha, z_power = ndtri(1 - alpha / 2), ndtri(power)
    spread = math.sqrt(max(0.0, discordant - difference**2))
    needed = ((z_alpha * math.sqrt(discordant) + z_power * spread) / difference) ** 2
    if needed > MOST_EPISODES:
        raise ValueError(f"a difference of {difference} needs more than {MOST_EPISODES} episodes")
    return math.ceil(needed - 1e-9)


def mcnemar_power(count: int, difference: float, discordant: float, alpha: float = 0.05) -> float:
    """The exact power of McNemar's exact test with `count` episodes, by enumeration."""
    _check_shares(difference, discordant)
    # Numbers of discordant episodes that are not too unlikely to matter.
    low, high = binom.ppf([1e-12, 1 - 1e-12], count, discordant)
    pairs = np.arange(low, high + 1)
    critical = binom.ppf(alpha / 2, pairs, 0.5)
    critical -= binom.cdf(critical, pairs, 0.5) > alpha / 2  # rejected up to here: may be -1
    better = (discordant + difference) / (2 * discordant)  # of the discordant episodes
    rejected = binom.cdf(critical, pairs, better) + binom.sf(pairs - critical - 1, pairs, better)
    return float(np.sum(binom.pmf(pairs, count, discordant) * rejected))


@dataclass(frozen=True)
class PlanRow:
    """How many episodes show that one policy has rate `second` and another `first`."""

    first: float
    second: float
    unpaired: int  # of each policy
    paired: dict[float, int]  # correlation of the outcomes on the same episode -> episodes


def plan(
    difference: float, power: float, correlations: Sequence[float] = (0.0, 0.3, 0.6)
) -> list[PlanRow]:
    """Episodes for a difference, from different rates on: 10 %, 20 % and so on."""
    rows = []
    for first in np.arange(0.1, 1.0 - difference + 1e-9, 0.1).round(12).tolist():
        second = round(first + difference, 12)
        paired = {
            correlation: paired_episodes(difference, discordance(first, second, correlation), power)
            for correlation in correlations
        }
        rows.append(PlanRow(first, second, unpaired_episodes(first, second, power), paired))
    return rows


def _check(first: float, second: float) -> None:
    if not (0 <= first <= 1 and 0 <= second <= 1 and first != second):
        raise ValueError(f"rates must be different and in [0, 1], got {first} and {second}")


def _check_shares(difference: float, discordant: float) -> None:
    if not 0 < difference <= discordant <= 1:
        raise ValueError(
            f"need 0 < difference <= discordant share <= 1, got {difference} and {discordant}"
        )
