"""Play episodes in several simulators with one batched policy.

Each client plays one episode at a time. The policy is called once for all clients that wait for an
action, so a slow simulator does not block others and the network gets batches. An episode depends
only on its `EpisodeSpec` and the policy, not on the number of clients or the order of their
answers. Results come in the order in which episodes finish.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, Literal

import numpy as np

from selfflow_robotics.envs.client import SimulatorClient, SimulatorError
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.robot.actions import ACTION_DIM
from selfflow_robotics.rollouts.clock import Clock, Timeline

RETRIES = 2

logger = logging.getLogger(__name__)

Observe = Literal["all", "last", "none"]  # which steps are rendered


@dataclass(frozen=True)
class Trajectory:
    """One episode of T steps: `observations[t]` and `infos[t]` precede `actions[t]`."""

    observations: list[dict[str, Any]]  # T + 1
    infos: list[dict[str, Any]]
    actions: np.ndarray  # float32 [T, 7], environment format


@dataclass(frozen=True)
class EpisodeResult:
    """The result of an episode. With `error` (the simulator failed permanently), success
    is False."""

    index: int  # position in the sequence of episodes
    spec: EpisodeSpec
    success: bool  # at the last step, as SIMPLER counts
    success_any: bool  # at any step
    steps: int
    wall_s: float
    error: str | None = None
    infos: list[dict[str, Any]] = field(default_factory=list)  # of the reset and each step
    first_observation: dict[str, Any] = field(default_factory=dict)  # empty if not rendered
    frames: list[np.ndarray] | None = None  # uint8 [H, W, 3], steps + 1 of them
    trajectory: Trajectory | None = None
    timeline: Timeline | None = None  # with a `Clock`

    @property
    def start(self) -> dict[str, Any]:
        """`info` of the reset; empty if the episode did not start."""
        return self.infos[0] if self.infos else {}

    @property
    def drawn(self) -> dict[str, Any]:
        """What the simulator drew for the episode; empty if it did not start."""
        return self.start.get("episode", {})


def roll_out(
    clients: Sequence[SimulatorClient],
    episodes: Iterable[EpisodeSpec],
    policy: Policy,
    *,
    replan_steps: int | None = None,
    max_steps: int | None = None,
    stop_on_success: bool = False,
    record: Literal["none", "frames", "steps"] = "none",
    clock: Clock | None = None,
) -> Iterator[EpisodeResult]:
    """Play `episodes` (possibly infinite: stop iterating at any time) and yield the results.

    The first `replan_steps` actions of each chunk (None: all) are executed before the next
    observation. An episode has the task's `max_episode_steps`, or `max_steps` if that is less; with
    `stop_on_success` it ends once success has held for the task's `hold_steps`. `record` keeps the
    images ("frames") or everything ("steps"), which renders every step. With a `clock`, the robot
    goes on while the policy computes; then the policy should return whole chunks.

    If a simulator fails or exceeds `timeout_s` for an answer, it is restarted and the episode
    repeated, up to `RETRIES` times; then the result is an error. So is that of an episode in which
    the policy returns an action that is not finite. Raises UserError if the policy returns a chunk
    of another shape, or if no simulator starts.
    """
    looks = getattr(policy, "looks", True)
    render: Observe = "all" if record != "none" else "last" if looks else "none"
    slots = [_Slot(number, client, render) for number, client in enumerate(clients)]
    waiting = enumerate(episodes)
    again: deque[_Episode] = deque()
    has_answered = False

    def fail(slot: _Slot, error: SimulatorError) -> EpisodeResult | None:
        cause = " ".join(str(error).split())  # it may include the last lines of a log
        episode = slot.drop()
        slot.client.restart()
        if episode.failures < RETRIES:
            logger.warning(
                "the %s simulator failed (%s) in an episode of %s with seed %d; repeating it",
                *(slot.client.spec.simulator, cause, episode.spec.task, episode.spec.seed),
            )
            again.append(_Episode(episode.index, episode.spec, episode.failures + 1))
            return None
        if not has_answered:
            raise UserError(f"the {slot.client.spec.simulator} simulator failed to start: {cause}")
        return episode.result(error=str(error))

    while True:
        for slot in slots:
            while slot.episode is None:
                episode = again.popleft() if again else _next_episode(waiting)
                if episode is None:
                    break
                try:
                    slot.begin(episode, policy, max_steps, stop_on_success)
                except SimulatorError as error:
                    if failed := fail(slot, error):
                        yield failed
        busy = [slot for slot in slots if slot.episode is not None]
        if not busy:
            return
        patience_s = min(slot.client.patience_s for slot in busy)
        wait([slot.client.waitable for slot in busy], patience_s)
        ready = []
        for slot in busy:
            try:
                if not slot.client.poll():
                    continue
                slot.take_reply()
                has_answered = True
            except SimulatorError as error:
                if failed := fail(slot, error):
                    yield failed
                continue
            if slot.running.is_over():
                yield slot.drop().result(record=record)
            else:
                ready.append(slot)
        for slot, chunk, latency_s in _timed(policy, ready, clock):
            if not np.isfinite(chunk).all():
                cause = f"policy '{policy.name}' returned an action that is not finite"
                yield slot.drop().result(error=cause)
                continue
            if clock is None:
                chunk = chunk[:replan_steps]
            else:
                chunk = slot.in_time(chunk, latency_s, replan_steps)
            try:
                slot.execute(chunk)
            except SimulatorError as error:
                if failed := fail(slot, error):
                    yield failed


@dataclass
class _Episode:
    """An episode being played."""

    index: int
    spec: EpisodeSpec
    failures: int = 0  # failures of the simulator in earlier attempts
    started: float = field(default_factory=time.monotonic)
    horizon: int = 0
    hold_steps: int = 0  # of success, after which it ends; 0: it goes on
    first_observation: dict[str, Any] = field(default_factory=dict)
    observations: list[dict[str, Any]] = field(default_factory=list)
    infos: list[dict[str, Any]] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def steps(self) -> int:
        return max(0, len(self.infos) - 1)

    def is_over(self) -> bool:
        last = self.infos[1:][-self.hold_steps :] if self.hold_steps else []
        has_held = len(last) == self.hold_steps > 0 and all(info["success"] for info in last)
        return has_held or self.steps >= self.horizon

    def result(self, error: str | None = None, record: str = "none") -> EpisodeResult:
        success = [bool(info["success"]) for info in self.infos[1:]]
        trajectory = frames = None
        if record == "frames":
            frames = [observation["image"] for observation in self.observations]
        if record == "steps":
            actions = np.concatenate(self.actions)[: self.steps]
            trajectory = Trajectory(self.observations, self.infos, actions)
        return EpisodeResult(
            index=self.index,
            spec=self.spec,
            success=error is None and success[-1],
            success_any=error is None and any(success),
            steps=self.steps,
            wall_s=time.monotonic() - self.started,
            error=error,
            infos=self.infos,
            first_observation=self.first_observation,
            frames=frames,
            trajectory=trajectory,
            timeline=self.timeline if self.timeline.latencies_s else None,
        )


class _Slot:
    """A client and the episode it plays."""

    def __init__(self, number: int, client: SimulatorClient, render: Observe) -> None:
        self.number = number
        self.client = client
        self.render = render
        self.episode: _Episode | None = None

    @property
    def running(self) -> _Episode:
        assert self.episode is not None
        return self.episode

    def begin(
        self, episode: _Episode, policy: Policy, max_steps: int | None, stop_on_success: bool
    ) -> None:
        spec = episode.spec
        task = get_task(spec.task)
        episode.horizon = task.max_episode_steps
        episode.hold_steps = task.hold_steps if stop_on_success else 0
        if max_steps is not None:
            episode.horizon = min(episode.horizon, max_steps)
        self.episode = episode
        policy.begin(self.number, spec)
        options = {"variant": spec.variant, **spec.options}
        observe = self.render != "none"
        self.client.submit(
            "reset", task=spec.task, seed=spec.seed, options=options, observe=observe
        )

    def in_time(self, chunk: np.ndarray, latency_s: float, replan_steps: int | None) -> np.ndarray:
        """What the robot executes until its next observation, with the answer so late."""
        left = self.running.horizon - self.running.steps
        hz = get_task(self.running.spec.task).robot.control_hz
        return self.running.timeline.actions(chunk, latency_s, hz, replan_steps, left)

    def execute(self, chunk: np.ndarray) -> None:
        left = self.running.horizon - self.running.steps
        chunk = chunk[:left]
        # The image after the last step is not needed.
        is_unseen = self.render == "last" and len(chunk) == left
        self.running.actions.append(chunk)
        self.client.submit(
            "run",
            actions=chunk,
            observe="none" if is_unseen else self.render,
            stop_after_success=self.running.hold_steps,
        )

    def take_reply(self) -> None:
        reply = self.client.result()
        if not self.running.infos:
            observations, infos = [reply["observation"] or {}], [reply["info"]]
            self.running.first_observation = observations[0]
        else:
            observations, infos = reply["observations"] or [{}], reply["infos"]
        self.running.infos += infos
        if self.render == "all":
            self.running.observations += observations
        else:
            self.running.observations = observations

    def drop(self) -> _Episode:
        episode, self.episode = self.running, None
        return episode


def _next_episode(waiting: Iterator[tuple[int, EpisodeSpec]]) -> _Episode | None:
    item = next(waiting, None)
    return None if item is None else _Episode(*item)


def _timed(
    policy: Policy, slots: list[_Slot], clock: Clock | None
) -> Iterator[tuple[_Slot, np.ndarray, float]]:
    """Each slot with its chunk, and how late that comes (s). To measure this, slots wait for each
    other, as a robot has the policy for itself."""
    if clock is None or clock.latency_s is not None:
        latency_s = clock.latency_s if clock else None
        for slot, chunk in zip(slots, _decide(policy, slots), strict=True):
            yield slot, chunk, latency_s or 0.0
        return
    for slot in slots:
        started = time.perf_counter()
        [chunk] = _decide(policy, [slot])
        yield slot, chunk, time.perf_counter() - started


def _decide(policy: Policy, slots: list[_Slot]) -> list[np.ndarray]:
    """The policy's chunk for each slot, checked."""
    if not slots:
        return []
    observations = [slot.running.observations[-1] for slot in slots]
    infos = [slot.running.infos[-1] for slot in slots] if policy.privileged else None
    chunks = policy.act([slot.number for slot in slots], observations, infos)
    if len(chunks) != len(slots):
        raise UserError(
            f"policy '{policy.name}' returned {len(chunks)} chunks for {len(slots)} episodes"
        )
    return [_check_chunk(policy, chunk) for chunk in chunks]


def _check_chunk(policy: Policy, chunk: np.ndarray) -> np.ndarray:
    chunk = np.asarray(chunk, np.float32)
    if chunk.ndim != 2 or chunk.shape[1] != ACTION_DIM or not len(chunk):
        raise UserError(
            f"policy '{policy.name}' returned actions of shape {chunk.shape}, expected [n, "
            f"{ACTION_DIM}] with n >= 1"
        )
    return chunk
