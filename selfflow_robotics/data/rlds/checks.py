"""Find episodes of a `Survey` that are suspicious: outliers, standing still, frozen cameras,
duplicates, and a gripper whose convention is not the expected one.

The thresholds are constants below; each is meant to leave clean recordings alone.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from selfflow_robotics.data.rlds.survey import Episode
from selfflow_robotics.robot.actions import ARM, GRIPPER
from selfflow_robotics.robot.normalize import ActionNormalizer, NormStats

ACTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")

# An arm action is an outlier if it is this many half ranges (1 % to 99 % quantile) from the centre.
OUTLIER_RANGES = 5.0
# An arm stands still below these displacements of a step ...
STILL_M, STILL_RAD = 1e-3, 1e-2
# ... and for this many steps it is suspicious: 5 s at RT-1's 3 Hz.
STILL_STEPS = 15
# A camera is frozen, or does not see the arm, if so many images in a row are the same file although
# the recorded tool moves by so much per step.
FROZEN_STEPS, MOVED_M = 4, 5e-3
# Steps that a gripper needs to follow a command, and the smallest change that counts (0 to 1).
FOLLOW_STEPS, FOLLOW_CHANGE = 4, 0.05
# A gripper's convention is judged from at least so many commands.
LEAST_CHANGES = 3

GripperVerdict = Literal["as expected", "reversed", "moves without commands", "unclear", "unknown"]


@dataclass(frozen=True)
class Outlier:
    """The arm action of an episode that is farthest outside."""

    episode: int
    step: int
    dimension: str
    value: float  # m or rad
    half_ranges: float  # distance from the centre; above OUTLIER_RANGES
    steps: int  # of this episode that have outliers


@dataclass(frozen=True)
class Run:
    """The longest run of steps of an episode in which something holds."""

    episode: int
    step: int  # its first one
    steps: int


@dataclass(frozen=True)
class Gripper:
    """How the recorded gripper follows the commands as training reads them (`robot.actions`)."""

    changes: int  # commands to change its state
    measured: int  # of which the recorded closedness moved
    direction: float | None  # mean of +1 (moves as commanded) and -1 (the other way) over these
    unexplained: float | None  # share of the recorded motion that follows no such command
    verdict: GripperVerdict


def outliers(episodes: Sequence[Episode]) -> list[Outlier]:
    """Episodes with arm actions far outside, the farthest first."""
    if not episodes:
        return []
    actions = np.concatenate([episode.actions for episode in episodes])
    # Quantiles that are steps of the data, so that a single outlier does not widen the range.
    low = np.quantile(actions, 0.01, axis=0, method="higher")
    high = np.quantile(actions, 0.99, axis=0, method="lower")
    zeros = np.zeros(actions.shape[1])
    normalizer = ActionNormalizer(NormStats(low, high, zeros, zeros, 0, 0))
    found = []
    for episode in episodes:
        ranges = np.abs(normalizer.normalize(episode.actions.astype(np.float64))[:, ARM])
        step, dimension = np.unravel_index(np.argmax(ranges), ranges.shape)
        if ranges[step, dimension] > OUTLIER_RANGES:
            found.append(
                Outlier(
                    episode.number,
                    int(step),
                    ACTION_NAMES[dimension],
                    float(episode.actions[step, dimension]),
                    float(ranges[step, dimension]),
                    int((ranges > OUTLIER_RANGES).any(axis=1).sum()),
                )
            )
    return sorted(found, key=lambda one: -one.half_ranges)


def still(episodes: Sequence[Episode]) -> list[Run]:
    """Episodes in which arm and gripper stand still for STILL_STEPS or longer, longest first."""
    return _runs(episodes, lambda episode: ~_acts(episode), STILL_STEPS)


def frozen(episodes: Sequence[Episode]) -> list[Run]:
    """Episodes whose images stay the same for FROZEN_STEPS steps or longer while the tool moves."""

    def repeats(episode: Episode) -> np.ndarray:
        same = np.zeros(len(episode), bool)
        moved = np.linalg.norm(np.diff(episode.proprio[:, :3], axis=0), axis=1) >= MOVED_M
        same[1:] = (episode.picture[1:] == episode.picture[:-1]) & moved
        return same

    return _runs(episodes, repeats, FROZEN_STEPS)


def _acts(episode: Episode) -> np.ndarray:
    """bool [T]: whether the action of a step moves the arm, or changes the gripper's state."""
    moved = np.linalg.norm(episode.actions[:, :3], axis=1) >= STILL_M
    moved |= np.linalg.norm(episode.actions[:, 3:6], axis=1) >= STILL_RAD
    moved[1:] |= np.diff(episode.actions[:, GRIPPER]) != 0
    return moved


def duplicates(episodes: Sequence[Episode], key: Callable[[Episode], object]) -> list[list[int]]:
    """The numbers of episodes with equal `key`, in groups of two or more."""
    groups: dict[object, list[int]] = defaultdict(list)
    for episode in episodes:
        groups[key(episode)].append(episode.number)
    return [group for group in groups.values() if len(group) > 1]


def gripper(episodes: Sequence[Episode]) -> Gripper:
    """Compare the gripper's commands with its recorded closedness.

    Reversed: it opens when told to close, so a sign or a meaning is wrong. It moves without
    commands if they are absolute (1 closed, 0 open) where changes are expected: opening is missed.
    """
    changes = measured = agreed = 0
    motion = unexplained = 0.0
    for episode in episodes:
        closedness = episode.proprio[:, 7].astype(np.float64)
        steps = gripper_changes(episode)
        changes += len(steps)
        moves = np.diff(closedness)
        explained = np.zeros(len(moves), bool)
        explained[:FOLLOW_STEPS] = True  # the first action may be a command too
        for step in steps:
            explained[step : step + FOLLOW_STEPS] = True
            end = min(step + FOLLOW_STEPS, len(closedness) - 1)
            moved = closedness[end] - closedness[step]
            if abs(moved) > FOLLOW_CHANGE:
                measured += 1
                closes = episode.actions[step, GRIPPER] < 0.5
                agreed += 1 if (moved > 0) == closes else -1
        moves = np.where(np.abs(moves) > FOLLOW_CHANGE, np.abs(moves), 0.0)
        motion += moves.sum()
        unexplained += moves[~explained].sum()
    direction = agreed / measured if measured else None
    share = float(unexplained / motion) if motion else None
    return Gripper(changes, measured, direction, share, _verdict(measured, direction, share))


def gripper_changes(episode: Episode) -> np.ndarray:
    """The steps whose action changes the gripper's state."""
    return np.flatnonzero(np.diff(episode.actions[:, GRIPPER])) + 1


def tool_correlation(episodes: Sequence[Episode]) -> list[float | None]:
    """Correlation of commanded and recorded displacement for x, y and z; None for a constant one.

    The lag of the arm is that of 0 to 2 steps which fits best. Negative values mean that an axis
    points the other way, values near 0 that the actions are no displacements.
    """
    best: list[float | None] = [None] * 3
    for lag in range(3):
        pairs = [
            (np.diff(one.proprio[lag:, :3], axis=0), one.actions[: len(one) - 1 - lag, :3])
            for one in episodes
            if len(one) > 1 + lag
        ]
        if not pairs:
            continue
        moved, told = (np.concatenate(part).astype(np.float64) for part in zip(*pairs, strict=True))
        for axis in range(3):
            spread = moved[:, axis].std() * told[:, axis].std()
            if spread < 1e-12:
                continue
            value = float(np.corrcoef(moved[:, axis], told[:, axis])[0, 1])
            known = best[axis]
            best[axis] = value if known is None or abs(value) > abs(known) else known
    return best


def _verdict(measured: int, direction: float | None, unexplained: float | None) -> GripperVerdict:
    if measured < LEAST_CHANGES or direction is None or unexplained is None:
        return "unknown"
    if direction < -0.5:
        return "reversed"
    if unexplained > 1 / 3:
        return "moves without commands"
    return "as expected" if direction > 0.5 else "unclear"


def _runs(
    episodes: Sequence[Episode], holds: Callable[[Episode], np.ndarray], least: int
) -> list[Run]:
    found = []
    for episode in episodes:
        padded = np.concatenate([[False], holds(episode), [False]]).astype(np.int8)
        edges = np.flatnonzero(np.diff(padded)).reshape(-1, 2)
        lengths = edges[:, 1] - edges[:, 0]
        if len(edges) and lengths.max() >= least:
            longest = int(np.argmax(lengths))
            found.append(Run(episode.number, int(edges[longest, 0]), int(lengths[longest])))
    return sorted(found, key=lambda run: -run.steps)
