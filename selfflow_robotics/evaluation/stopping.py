"""Stop an evaluation as soon as its question is answered (`stop=sequential`).

The question is whether the success rate is above or below a `target`, or whether the policy is
better or worse than another one `against` which it plays the same episodes. Looking at a p-value
again and again until it is small finds differences that are not there. An e-value may be looked at
after every episode: if there is no difference, the probability that it *ever* reaches 20 is at most
5 % (see `comparing.paired.e_values`).

After a stop, the usual intervals are too narrow, as the outcomes decided how many there are. The
anytime-valid interval holds whenever one stops.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from scipy.optimize import brentq
from scipy.special import betaln

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.comparing.matching import (
    Candidate,
    Evaluation,
    comparable,
    match_results,
)
from selfflow_robotics.evaluation.comparing.paired import PairedCounts
from selfflow_robotics.evaluation.ledger import EpisodeRecord, episode_key
from selfflow_robotics.evaluation.statistics import Interval

LEVEL = 0.05
EVERY = 10  # episodes between two looks: simulators wait for each other at a look


def looks(count: int) -> Iterator[int]:
    """The numbers of episodes after which to look: 10, 20, ..., and all `count`."""
    yield from range(EVERY, count, EVERY)
    yield count


def rate_e_value(successes: int, count: int, target: float) -> float:
    """The e-value that the success rate is not `target`, in (0, 1), given the episodes so far.

    The likelihood ratio of a uniform mixture of all rates against the target (Ville 1939; Robbins,
    "Statistical methods related to the law of the iterated logarithm", 1970).
    """
    return math.exp(min(700.0, _log_e(successes, count, target)))


def anytime_interval(successes: int, count: int) -> Interval:
    """The rates with an e-value below 20: a 95 % interval that holds for every rule of when to
    stop. Wider than Wilson's; (0, 1) without episodes."""
    if count == 0:
        return 0.0, 1.0
    found, limit = successes / count, -math.log(LEVEL)

    def excess(rate: float) -> float:
        return _log_e(successes, count, rate) - limit

    edge = 1e-12
    low = 0.0 if successes == 0 else brentq(excess, edge, found - edge)
    high = 1.0 if successes == count else brentq(excess, found + edge, 1 - edge)
    return float(low), float(high)  # type: ignore[arg-type]


def _log_e(successes: int, count: int, rate: float) -> float:
    failures = count - successes
    mixture = float(betaln(1 + successes, 1 + failures))
    return mixture - successes * math.log(rate) - failures * math.log1p(-rate)


@dataclass(frozen=True)
class Answer:
    """What the episodes so far say."""

    question: str  # "a target of 85 %", "against runs/rt1/eval/..."
    target: float | None
    e: float
    played: int
    planned: int
    verdict: str  # "above", "below", "better", "worse"; "": undecided
    interval: Interval  # anytime-valid, of the success rate

    def text(self) -> str:
        """One line for the report."""
        low, high = self.interval
        return (
            f"stop=sequential, {self.question}: {self.verdict or 'undecided'} after {self.played} "
            f"of {self.planned} episodes (e = {self.e:.3g}; {1 / LEVEL:g} decides at the "
            f"{100 * LEVEL:g} % level). The success rate's 95 % interval for any stopping rule is "
            f"{100 * low:.0f}-{100 * high:.0f} %."
        )


@dataclass(frozen=True)
class SequentialTest:
    """The question: `target` in (0, 1), or the results `against` which to compare."""

    target: float | None
    against: Candidate | None

    @classmethod
    def of(cls, target: float | None, against: str | None) -> "SequentialTest":
        """From the settings. Raises UserError unless there is exactly one, and for a `target` that
        is out of range or `against` without results."""
        if (target is None) == (against is None):
            raise UserError(
                "stop=sequential needs a question: target=0.85 (above or below that success rate) "
                "or against=RESULTS_FOLDER (better or worse than those results), not both"
            )
        if target is not None and not 0 < target < 1:
            raise UserError(f"target must be between 0 and 1, such as 0.85, got {target:g}")
        return cls(
            target, Candidate.find(f"against={against}", against) if against is not None else None
        )

    def check_task(self, task: str, protocol: str, seed: int) -> None:
        """Raise UserError if `against` has no such results; before another task is played."""
        found = self.against.evaluations if self.against else ()
        if self.against and (task, protocol, seed) not in {
            (one.task, one.protocol, one.seed) for one in found
        }:
            known = {f"{one.task} (protocol={one.protocol} seed={one.seed})" for one in found}
            raise UserError(
                f"against={self.against.given} has no results of {task} with protocol={protocol} "
                f"seed={seed}, only of {', '.join(sorted(known))}"
            )

    def check_episodes(self, folder: Path, episodes: Sequence[EpisodeSpec]) -> None:
        """Raise UserError unless `against` has all `episodes` of the evaluation in `folder`, which
        may have none yet."""
        if self.against is None:
            return
        records = [r for one in comparable(_own(folder), self.against) for r in one.records()]
        known = {record.episode for record in records if record.error is None}
        both = sum(1 for _ in takewhile(lambda one: episode_key(one) in known, episodes))
        if both < len(episodes):
            raise UserError(
                f"against={self.against.given} has played {both} of these {len(episodes)} "
                "episodes; play the others there first"
                + (f", or set num_episodes={both}" if both else "")
            )

    def answer(self, folder: Path, records: Sequence[EpisodeRecord], planned: int) -> Answer:
        """The answer of the episodes played so far, whose ledger is in `folder`.

        Raises UserError if they cannot be compared with those of `against`.
        """
        played = [record for record in records if record.error is None]
        successes = sum(record.success for record in played)
        interval = anytime_interval(successes, len(played))
        if self.target is not None:
            e = rate_e_value(successes, len(played), self.target)
            is_higher, words = successes > self.target * len(played), ("above", "below")
            question = f"a target of {100 * self.target:g} %"
        else:
            assert self.against is not None
            counts = self._paired(folder, played)
            e, is_higher, words = counts.e, counts.difference < 0, ("better", "worse")
            question = f"against {self.against.given}"
        verdict = words[0 if is_higher else 1] if e >= 1 / LEVEL else ""
        return Answer(question, self.target, e, len(played), planned, verdict, interval)

    def _paired(self, folder: Path, played: Sequence[EpisodeRecord]) -> PairedCounts:
        assert self.against is not None
        matches = match_results(_own(folder), self.against).found
        keys = {record.episode for record in played}
        pairs = [pair for match in matches for pair in match.pairs if pair[0].episode in keys]
        return PairedCounts.of(*([r.success for r in side] for side in zip(*pairs, strict=True)))


def _own(folder: Path) -> Candidate:
    return Candidate("this evaluation", str(folder), (Evaluation.open(folder),))


def recomputed(written: dict[str, Any], records: Sequence[EpisodeRecord]) -> Answer:
    """The answer in a report, computed again from the episodes; the e-value against other results
    is taken as written. Raises KeyError, TypeError or ValueError if it is not one."""
    target = written["target"]
    answer = Answer(
        *(written["question"], target, written["e"], written["played"], written["planned"]),
        *(written["verdict"], tuple(written["interval"])),
    )
    if target is not None:
        return SequentialTest(target, None).answer(Path(), records, answer.planned)
    played = [record.success for record in records if record.error is None]
    interval = anytime_interval(sum(played), len(played))
    verdict = answer.verdict if answer.e >= 1 / LEVEL else ""
    return replace(answer, played=len(played), interval=interval, verdict=verdict)
