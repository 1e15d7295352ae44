"""Policies that record training data: an expert with disturbances, and aimless play.

Executed and recorded actions differ. A policy trained on flawless demonstrations never sees how to
recover from its mistakes. So the executed action is disturbed, while the recorded label is the
expert's reaction to the current state (DART, arXiv 1703.09327).
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.envs.tasks.plan import Grasp, Hover, Pick
from selfflow_robotics.policies import expert_objects, expert_widowx
from selfflow_robotics.policies.expert import decide, plan_of
from selfflow_robotics.policies.motion import Progress
from selfflow_robotics.policies.random import RandomWalk
from selfflow_robotics.rng import numpy_generator

# Shares of disturbed episodes, and the disturbances.
WANDER_SHARE, MISS_SHARE = 0.45, 0.20
WANDER_STEPS = (1, 8)
MISS_M = (0.025, 0.05)
MISS_LIFT_STEPS = (0, 4)
MISS_MAX_STEPS = 30
NOISE_M = 0.01  # standard deviation per axis, while approaching
WALK_MEMORY = 0.8
# Play alternates between wandering and expert motion.
STRETCH_STEPS = (4, 13)
# Skills whose grasp can be missed on purpose -> steps until their fingers are closed.
_CLOSING_STEPS = {Pick: expert_objects.CLOSING_STEPS, Grasp: expert_widowx.CLOSING_STEPS}
# Recorded steps of a `Hover`: enough to reach the place and to hold still there.
WAITING_STEPS = 14


@dataclass
class Track:
    """The labels of an episode: the undisturbed action of each step, None for unrecorded steps."""

    generator: np.random.Generator
    progress: Progress
    labels: list[np.ndarray | None] = field(default_factory=list)

    @property
    def disturbed(self) -> bool:
        """Whether something other than the recorded actions was executed."""
        return False

    def start_over(self) -> None:
        """Begin the plan again."""
        self.progress = Progress(self.progress.plan)


@dataclass
class _Disturbed(Track):
    noise_m: float = 0.0
    walk: RandomWalk | None = None
    miss: np.ndarray | None = None  # offset of a deliberately missed grasp (m)
    unrecorded_steps: int = 0  # steps left
    waiting_steps: int = 0  # so far

    @property
    def disturbed(self) -> bool:
        return self.noise_m > 0


class Demonstrator:
    """The scripted expert; a share `recovery` of its episodes is disturbed.

    A disturbed episode has noise on the executed translations while approaching. It may begin with
    unrecorded steps: random wandering, or (where the task begins with a grasp) a missed grasp, so
    that the recording starts from an unusual pose or with a closed, empty gripper. After an
    episode, `tracks[seed]` has its labels; remove it with `pop`.
    """

    name = "demonstrator"
    privileged = True

    def __init__(self, recovery: float) -> None:
        self.recovery = recovery
        self.tracks: dict[int, Track] = {}
        self._slots: dict[int, _Disturbed] = {}

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        """Draw the disturbance of this episode from its seed."""
        rng = numpy_generator("disturbance", episode.seed)
        track = self._slots[slot] = self.tracks[episode.seed] = _Disturbed(
            rng, Progress(plan_of(episode))
        )
        if rng.random() >= self.recovery:
            return
        track.noise_m = NOISE_M
        kind = rng.random()
        if kind < WANDER_SHARE:
            track.walk = RandomWalk(rng, WALK_MEMORY, get_task(episode.task).robot.name)
            track.unrecorded_steps = int(rng.integers(*WANDER_STEPS))
        elif kind < WANDER_SHARE + MISS_SHARE and type(track.progress.plan[0]) in _CLOSING_STEPS:
            angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(*MISS_M)
            track.miss = length * np.array([math.cos(angle), math.sin(angle), 0.0])
            track.unrecorded_steps = MISS_MAX_STEPS

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None,
    ) -> list[np.ndarray]:
        """One action for each slot."""
        assert infos is not None
        return [
            self._step(self._slots[slot], info)[None]
            for slot, info in zip(slots, infos, strict=True)
        ]

    def _step(self, track: _Disturbed, info: dict[str, Any]) -> np.ndarray:
        if track.unrecorded_steps:
            track.unrecorded_steps -= 1
            track.labels.append(None)
            return track.walk.step() if track.walk else self._missing(track, info)
        waits = isinstance(track.progress.plan[track.progress.done], Hover)
        action = decide(track.progress, info)
        track.waiting_steps += waits
        track.labels.append(None if track.waiting_steps > WAITING_STEPS and waits else action)
        if not track.noise_m or track.progress.closing_steps:
            return action
        noise = np.append(track.generator.normal(0, track.noise_m, 3), np.zeros(4))
        return (action + noise).astype(np.float32)

    def _missing(self, track: _Disturbed, info: dict[str, Any]) -> np.ndarray:
        """The expert's action for an offset object position."""
        state = info["state"]
        false_pose = np.array(state["object_pose"])
        false_pose[:3] += track.miss
        started = track.progress.closing_steps
        action = decide(track.progress, {**info, "state": {**state, "object_pose": false_pose}})
        if track.progress.closing_steps == _CLOSING_STEPS[type(track.progress.plan[0])] > started:
            track.unrecorded_steps = int(track.generator.integers(*MISS_LIFT_STEPS))
        if not track.unrecorded_steps:
            track.start_over()
        return action


class Player:
    """Alternates between smooth wandering and expert motion, to record a moving robot.

    Executed and recorded actions are the same.
    """

    name = "player"
    privileged = True

    def __init__(self) -> None:
        self.tracks: dict[int, Track] = {}
        self._slots: dict[int, tuple[Track, RandomWalk]] = {}
        self._stretches: dict[int, tuple[bool, int]] = {}  # slot -> (wandering, steps left)

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        """Start an episode, drawn from its seed."""
        rng = numpy_generator("play", episode.seed)
        track = self.tracks[episode.seed] = Track(rng, Progress(plan_of(episode)))
        walk = RandomWalk(rng, WALK_MEMORY, get_task(episode.task).robot.name)
        self._slots[slot] = (track, walk)
        self._stretches[slot] = (rng.random() < 0.5, int(rng.integers(*STRETCH_STEPS)))

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None,
    ) -> list[np.ndarray]:
        """One action for each slot."""
        assert infos is not None
        return [self._step(slot, info)[None] for slot, info in zip(slots, infos, strict=True)]

    def _step(self, slot: int, info: dict[str, Any]) -> np.ndarray:
        track, walk = self._slots[slot]
        wanders, left = self._stretches[slot]
        if not left:
            wanders, left = not wanders, int(track.generator.integers(*STRETCH_STEPS))
            track.start_over()
        self._stretches[slot] = (wanders, left - 1)
        action = walk.step() if wanders else decide(track.progress, info)
        track.labels.append(action)
        return action
