"""Play the missing episodes of an evaluation and record them as they finish."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.envs.tasks.failures import Course
from selfflow_robotics.evaluation.ledger import EpisodeRecord, Ledger
from selfflow_robotics.evaluation.video import write_video
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.rollouts.clock import Clock, Timeline
from selfflow_robotics.rollouts.engine import EpisodeResult, roll_out

logger = logging.getLogger(__name__)


def play_missing(
    ledger: Ledger,
    policy: Policy,
    clients: Sequence[SimulatorClient],
    episodes: Sequence[EpisodeSpec],
    *,
    replan_steps: int,
    num_videos: int,
    on_record: Callable[[EpisodeRecord], None],
    clock: Clock | None = None,
) -> None:
    """Play the `episodes` that are not in the ledger; `on_record` is called after each.

    The first episodes of each variant, `num_videos` in total, are recorded as video. They are
    played first, since a video renders every step, and a policy only one in `replan_steps`.
    """
    missing = ledger.missing(policy.name, episodes)
    shown = _variants_in_turn(episodes)[:num_videos]
    filmed = [episode for episode in shown if episode in missing]
    others = [episode for episode in missing if episode not in filmed]
    # Where objects may be invisible, different states can look the same; and a policy that does not
    # look gets no images, though its films have some.
    looks = getattr(policy, "looks", True) and not clients[0].spec.allow_invisible
    how: Any = {"replan_steps": replan_steps, "clock": clock}
    results = chain(
        roll_out(clients, filmed, policy, record="frames", **how),
        roll_out(clients, others, policy, **how),
    )
    for result in results:
        record = _record(ledger, policy.name, result, looks)
        ledger.add(record)
        on_record(record)


def _variants_in_turn(episodes: Sequence[EpisodeSpec]) -> list[EpisodeSpec]:
    """The first of each variant, the second of each, and so on."""
    seen: Counter[str] = Counter()
    turns = []
    for episode in episodes:
        turns.append(seen[episode.variant])
        seen[episode.variant] += 1
    return [episode for _, episode in sorted(zip(turns, episodes, strict=True), key=lambda t: t[0])]


def _record(ledger: Ledger, policy: str, result: EpisodeResult, looks: bool) -> EpisodeRecord:
    video = None
    if result.frames:
        video = _film(ledger, policy, result, result.frames)
    return EpisodeRecord(
        policy=policy,
        task=result.spec.task,
        variant=result.spec.variant,
        seed=result.spec.seed,
        options=result.spec.options,
        success=result.success,
        success_at_any_step=result.success_any,
        steps=result.steps,
        error=result.error,
        wall_s=round(result.wall_s, 3),
        video=video,
        start=_start(result),
        picture=_picture(result) if looks else None,
        failure=_failure(result),
        **({} if result.timeline is None else _timing(result.timeline)),
    )


def _timing(timeline: Timeline) -> dict[str, Any]:
    return {
        "latencies_ms": [round(1000 * latency_s, 3) for latency_s in timeline.latencies_s],
        "held_steps": timeline.held_steps,
    }


def _failure(result: EpisodeResult) -> str | None:
    """How the episode failed; None if it succeeded or could not be played."""
    if result.success or result.error:
        return None
    return get_task(result.spec.task).failure(result.drawn, Course.of(result.infos))


def _start(result: EpisodeResult) -> str | None:
    """Digest of what the simulator started from: poses, joints and drawers (to 10 um or urad),
    the robot's colours and the instruction. None if it did not start."""
    if not result.start:
        return None
    state = {
        key: np.round(np.asarray(value, np.float64), 5).tolist()
        for key, value in sorted(result.start["state"].items())
    }
    task, drawn = get_task(result.spec.task), result.drawn
    shown = [state, drawn.get("robot_variant"), task.instructions(drawn)[0]]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def _picture(result: EpisodeResult) -> str | None:
    """Digest of the first image and the instruction beside it. None if nothing was rendered."""
    first = result.first_observation
    if not first:
        return None
    shown = np.ascontiguousarray(first["image"]).tobytes() + first["instruction"].encode()
    return hashlib.sha256(shown).hexdigest()[:16]


def _film(
    ledger: Ledger, policy: str, result: EpisodeResult, frames: list[np.ndarray]
) -> str | None:
    """The video's name in the folder; None if it could not be written, which does not affect the
    episode."""
    outcome = "success" if result.success else "failure"
    name = f"videos/{policy}-{result.spec.variant}-{result.spec.seed}-{outcome}.mp4"
    hz = get_task(result.spec.task).robot.control_hz
    try:
        write_video(ledger.folder / name, np.stack(frames), fps=hz)
    except OSError as error:
        logger.warning(
            "could not write video %s (%s); its episode still counts", name, error.strerror or error
        )
        return None
    return name
