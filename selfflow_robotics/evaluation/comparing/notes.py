"""The lines under a comparison: what a reader should know about its episodes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from selfflow_robotics.evaluation.comparing.matching import MAY_DIFFER, Match, differing


class Pairing(NamedTuple):
    """What two candidates, named by their labels, both played of one task."""

    first: str
    second: str
    match: Match

    @property
    def labels(self) -> tuple[str, str]:
        """Both labels."""
        return self.first, self.second


def notes(found: Sequence[Pairing]) -> list[str]:
    """Which episodes count, and why some say less than they seem to."""
    return _by_task((one.match.task, line) for one in found for line in _notes(one))


def troubles(found: Sequence[Pairing]) -> list[str]:
    """Episodes that failed to run."""
    return _by_task((one.match.task, line) for one in found for line in _troubles(one))


def _notes(pairing: Pairing) -> Iterator[str]:
    first, second, match = pairing
    count = len(match.pairs)
    if set(match.counts) != {count}:
        yield (
            f"{count} episodes are common, of {match.counts[0]} of {first} and {match.counts[1]} "
            f"of {second}"
        )
    starts = [one.start for one, _ in match.pairs if one.start is not None]
    if repeated := len(starts) - len(set(starts)):
        yield (
            f"{repeated} of {count} episodes repeat the initial state of another; intervals may be "
            "too narrow and p-values too small"
        )
    simulators = [one.simulator for side in match.evaluations for one in side]
    if keys := [key for key in differing(simulators) if key in MAY_DIFFER]:
        yield f"different {' and '.join(keys)}, which may be part of the difference"
    for label, side in zip(pairing.labels, match.evaluations, strict=True):
        if len(side) > 1:
            seeds = dict.fromkeys(str(one.seed) for one in side)
            yield f"{label} has results with seed {' and '.join(seeds)}"


def _troubles(pairing: Pairing) -> Iterator[str]:
    for label, errors in zip(pairing.labels, pairing.match.errors, strict=True):
        if errors:
            yield (
                f"{errors} episodes of {label} failed to run and are left out; repeat its "
                "evaluation to retry them"
            )


def _by_task(lines: Iterable[tuple[str, str]]) -> list[str]:
    """Each line once, after the tasks that it is about."""
    tasks: dict[str, dict[str, None]] = {}
    for task, line in lines:
        tasks.setdefault(line, {})[task] = None
    return [f"{', '.join(names)}: {line}" for line, names in tasks.items()]
