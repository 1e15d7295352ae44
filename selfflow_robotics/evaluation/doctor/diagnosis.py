"""From evidence to verdicts: which reading of the data explains the recorded motion.

The reading that lowers the error of the motion it decides by most is a fault; it is applied, and
the rest is judged again. So one fault, which also spoils the evidence for others, is named alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.evaluation.doctor.conventions import (
    CHANNELS,
    CONVENTIONS,
    Convention,
    Reading,
)
from selfflow_robotics.evaluation.doctor.proprioception import unexplained
from selfflow_robotics.evaluation.doctor.recordings import Recording
from selfflow_robotics.evaluation.doctor.replay import Replay, Start, replay

Verdict = Literal["ok", "fault", "not checked"]
_MOST_FAULTS = 3
_TIE = 1.02  # ratio of errors of readings that explain the motion equally well


@dataclass(frozen=True)
class Measured:
    """How far the recorded motion is from what the actions do: the errors by `CHANNELS`."""

    errors: tuple[float, ...]
    successes: int | None = None  # recordings that succeed when replayed


@dataclass(frozen=True)
class Limits:
    """Of the ratio of another reading's error to that of the expected one."""

    fault: float  # below it, the other reading is right
    ok: float  # above it, the expected one is
    least: tuple[float, ...]  # errors by `CHANNELS`; a reading cannot be wrong by less
    most: tuple[float, ...]  # a reading that leaves more explains nothing, so it cannot be right


class Evidence(Protocol):
    """A way to measure readings."""

    name: str
    limits: Limits
    unexplained: tuple[float, ...]  # errors by `CHANNELS` that no convention of ours should leave

    def measure(self, read: Callable[[Recording], Recording]) -> Measured: ...


class ReplayEvidence:
    """Replays in a simulator (`replay`): position (m), rotation (rad), closedness."""

    name = "replay"

    def __init__(self, client: SimulatorClient, pairs: Sequence[tuple[Recording, Start]]) -> None:
        self._client, self._pairs = client, pairs
        self.exact = all(start.exact for _, start in pairs)
        least = (0.001, 0.001, 0.05) if self.exact else (0.005, 0.01, 0.1)
        self.limits = Limits(0.5, 1.5, least, (np.inf, np.inf, 0.5))
        self.unexplained = (0.02, 0.1, 0.3) if self.exact else (0.1, 0.5, 0.5)
        self._played: dict[tuple[int, bytes, int], Replay] = {}

    def measure(self, read: Callable[[Recording], Recording]) -> Measured:
        replays = []
        for place, (recording, start) in enumerate(self._pairs):
            one = read(recording)
            key = (place, one.actions.tobytes(), one.hold)
            if key not in self._played:  # readings of the state need no replay of their own
                self._played[key] = replay(self._client, one, start)
            replays.append((self._played[key].errors(one), self._played[key].success))
        errors = np.mean([error for error, _ in replays], axis=0)
        successes = sum(success for _, success in replays) if self.exact else None
        return Measured(tuple(errors.tolist()), successes)


class MotionEvidence:
    """The recorded motion against the recorded actions, without a simulator (`proprioception`)."""

    name = "recorded motion"
    limits = Limits(0.97, 1.05, (0.05, 0.05, 0.1), (0.7, 0.7, 0.5))
    unexplained = (0.9, 1.2, 0.5)

    def __init__(self, recordings: Sequence[Recording], robot: str) -> None:
        self._recordings, self._robot = recordings, robot

    def measure(self, read: Callable[[Recording], Recording]) -> Measured:
        readings = [read(one) for one in self._recordings]
        return Measured(tuple(unexplained(readings, self._robot).tolist()))


@dataclass(frozen=True)
class Cost:
    """What a reading other than the expected one does to the motion."""

    reading: str
    measured: Measured
    ratio: float | None  # of its error to the expected reading's; None: it needs a replay


@dataclass(frozen=True)
class Finding:
    """The verdict on one convention."""

    convention: str
    expected: str
    evidence: str
    verdict: Verdict
    found: str = ""  # the reading that fits, for a fault
    mend: str = ""
    why: str = ""  # not checked
    margin: float | None = None  # error of the wrong reading over that of the right one
    alike: tuple[str, ...] = ()  # other readings that explain a fault as well
    costs: tuple[Cost, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """All verdicts on the motion. `as_read`: with every convention as expected; `mended`: with the
    faults read as they are."""

    findings: list[Finding]
    as_read: Measured
    mended: Measured


def diagnose(evidence: Evidence, layout: str, local: Evidence | None = None) -> Diagnosis:
    """Judge every convention of data with a layout's features.

    `local`: further evidence for a motion that departs from the recording although no reading fits
    better. The errors of a replay add up over its steps, those of the recorded motion do not.
    """
    conventions = [one for one in CONVENTIONS if layout in one.layouts]
    faults: list[Finding] = []
    read: Callable[[Recording], Recording] = lambda one: one  # noqa: E731
    as_read = base = evidence.measure(read)
    while True:
        tried = {one.name: _try(one, evidence, read, base) for one in conventions}
        fault = _worst(conventions, tried, evidence, base)
        if fault is None and not faults and local and _unexplained(evidence, base):
            there = local.measure(read)
            measured = {one.name: _try(one, local, read, there) for one in conventions}
            fault = _worst(conventions, measured, local, there)
        if fault is None or len(faults) == _MOST_FAULTS:
            break
        convention, reading, finding = fault
        costs = tuple(cost for cost in tried[convention.name] if cost.reading == reading.name)
        faults.append(replace(finding, costs=costs))
        conventions = [one for one in conventions if one is not convention]
        read, base = _after(reading, read), costs[0].measured
    rest = [_judge(one, tried[one.name], evidence) for one in conventions]
    # A fault may leave an error that no reading mends, such as that of missing steps.
    if not faults and (too_far := _unexplained(evidence, base)):
        rest.append(too_far)
    return Diagnosis([*faults, *rest], as_read, base)


def _after(
    reading: Reading, earlier: Callable[[Recording], Recording]
) -> Callable[[Recording], Recording]:
    return lambda one: reading.read(earlier(one))


def _try(
    convention: Convention,
    evidence: Evidence,
    read: Callable[[Recording], Recording],
    base: Measured,
) -> list[Cost]:
    costs = []
    for reading in convention.others:
        if reading.needs_replay and evidence.name != ReplayEvidence.name:
            costs.append(Cost(reading.name, base, None))
            continue
        measured = evidence.measure(_after(reading, read))
        costs.append(Cost(reading.name, measured, _ratio(convention, measured, base, evidence)))
    return costs


def _ratio(convention: Convention, other: Measured, base: Measured, evidence: Evidence) -> float:
    """Of errors, the geometric mean over the kinds of motion that decide."""
    ratios = []
    for channel in convention.decides:
        place = CHANNELS.index(channel)
        # Of two errors that are both far below what counts, neither is smaller.
        floor = evidence.limits.least[place] / 10
        ratios.append((other.errors[place] + floor) / (base.errors[place] + floor))
    return float(np.exp(np.mean(np.log(ratios))))


def _worst(
    conventions: Sequence[Convention],
    tried: dict[str, list[Cost]],
    evidence: Evidence,
    base: Measured,
) -> tuple[Convention, Reading, Finding] | None:
    """The fault that explains most, if there is any."""
    limits = evidence.limits
    found = [
        (cost.ratio, place, one, reading, cost)
        for place, one in enumerate(conventions)
        for reading, cost in zip(one.others, tried[one.name], strict=True)
        if cost.ratio is not None and cost.ratio < limits.fault and _counts(one, cost, limits, base)
    ]
    if not found:
        return None
    least, _, convention, reading, _ = min(found, key=lambda one: (one[0], one[1]))
    alike = tuple(
        f"{one.name}: {other.name}"
        for ratio, _, one, other, _ in found
        if ratio <= least * _TIE and other is not reading
    )
    finding = Finding(
        convention.name,
        convention.expected,
        evidence.name,
        "fault",
        reading.name,
        reading.mend,
        margin=1 / least,
        alike=alike,
    )
    return convention, reading, finding


def _counts(convention: Convention, cost: Cost, limits: Limits, base: Measured) -> bool:
    """Whether the expected reading errs enough for a fault, and the other one little enough."""
    places = [CHANNELS.index(channel) for channel in convention.decides]
    return any(base.errors[place] > limits.least[place] for place in places) and all(
        cost.measured.errors[place] < limits.most[place] for place in places
    )


def _judge(convention: Convention, costs: list[Cost], evidence: Evidence) -> Finding:
    """The verdict on a convention that is not a fault."""
    ratios = [cost.ratio for cost in costs if cost.ratio is not None]
    about = (convention.name, convention.expected, evidence.name)
    closest = min(ratios)
    if closest > evidence.limits.ok:
        return Finding(*about, "ok", margin=closest, costs=tuple(costs))
    likest = next(cost.reading for cost in costs if cost.ratio == closest)
    why = f"'{likest}' would explain these recordings as well"
    return Finding(*about, "not checked", why=why, margin=closest, costs=tuple(costs))


def _unexplained(evidence: Evidence, base: Measured) -> Finding | None:
    """The finding that the motion departs from the actions, whatever the reading."""
    limits = zip(CHANNELS, base.errors, evidence.unexplained, strict=True)
    if not (far := [channel for channel, error, most in limits if error > most]):
        return None
    return Finding(
        "motion",
        "what the actions do",
        evidence.name,
        "fault",
        f"another {' and '.join(far)}, which no reading explains",
        "compare units, robot and controller of the data with the simulator's",
    )
