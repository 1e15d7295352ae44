"""Whether a paired comparison shows which policy is better, or how many more episodes it needs."""

from dataclasses import dataclass
from typing import Literal

from selfflow_robotics.evaluation.comparing.paired import PairedCounts
from selfflow_robotics.evaluation.comparing.power import paired_episodes

ALPHA = 0.05

Verdict = Literal["first", "second", "no_difference", "not_enough"]


@dataclass(frozen=True)
class Goal:
    """The difference that a comparison should be able to find, and how surely."""

    difference: float = 0.1  # of success rates, in (0, 1)
    power: float = 0.8


def episodes_needed(counts: PairedCounts, goal: Goal, num_tests: int = 1) -> int:
    """Episodes with which the test finds the goal's difference, if outcomes of the two differ as
    often as in these counts. With several tests, each at the level that Holm's method begins with.
    """
    # One more discordant episode in two more: none so far does not mean that there are none.
    discordant = (counts.discordant + 1) / (counts.count + 2)
    discordant = max(discordant, goal.difference)
    return paired_episodes(goal.difference, discordant, goal.power, ALPHA / num_tests)


def judge(
    counts: PairedCounts, goal: Goal, num_tests: int = 1, p: float | None = None
) -> tuple[Verdict, int]:
    """(verdict, how many more episodes would do). `p` is the adjusted p-value; None: the test's.

    "no_difference": none was found, although there are enough episodes for the goal's.
    """
    if (counts.p if p is None else p) <= ALPHA:
        return ("second" if counts.difference > 0 else "first"), 0
    more = max(0, episodes_needed(counts, goal, num_tests) - counts.count)
    return ("not_enough" if more else "no_difference"), more
