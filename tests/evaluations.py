"""Results of evaluations as eval/simpler.py writes them, with outcomes that are made up."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.envs.base import robot_state
from selfflow_robotics.envs.tasks.catalog import TASKS
from selfflow_robotics.evaluation.ledger import EpisodeRecord, Ledger
from selfflow_robotics.evaluation.pages import write_results as pages
from selfflow_robotics.evaluation.protocol import evaluation_episodes
from selfflow_robotics.evaluation.report import Report
from selfflow_robotics.evaluation.results import folder_name
from selfflow_robotics.evaluation.summary import Summary
from selfflow_robotics.inference.bundle import weights_hash

NUM_EPISODES = 12
STEP = "checkpoints/step_0000005"


def write_results(
    root: Path, task: str, count: int = NUM_EPISODES, errors: tuple[int, ...] = ()
) -> tuple[Path, Report]:
    """Two policies in `count` cells of the task's grid; `errors` are seeds that failed to run."""
    checkpoint = root / STEP
    settings = {
        "policy": "network",
        "checkpoint": weights_hash(checkpoint),
        "simulator": {"simulator": "tabletop", "task": task, "mujoco": "4.0"},
        "protocol": "grid",
        "seed": 3,
        "replan_steps": 6,
    }
    folder = root / "eval" / folder_name(f"tabletop-{task}-grid", settings)
    ledger = Ledger.open(folder, settings)
    episodes = evaluation_episodes(TASKS[task], "tabletop", "grid", count, 3)
    for policy, rate in (("network", 7), ("random", 2)):
        for index, episode in enumerate(ledger.missing(policy, episodes)):
            success, video = episode.seed % 10 < rate, None
            if index < 2:
                video = f"videos/{policy}-{episode.variant}-{episode.seed}.mp4"
                (folder / "videos").mkdir(exist_ok=True)
                (folder / video).write_bytes(bytes(range(200)) + video.encode())
            ledger.add(
                EpisodeRecord(
                    *(policy, task, episode.variant, episode.seed, episode.options),
                    success=success and episode.seed not in errors,
                    success_at_any_step=episode.seed % 10 < rate + 1,
                    error="crash" if episode.seed in errors else None,
                    steps=80,
                    wall_s=1.25,
                    video=video,
                    start=f"{episode.seed:016x}",
                    failure=None if success else "never moved",
                )
            )
    report = Report(
        *(task, "the MuJoCo tabletop", "grid", 3, TASKS[task].variants),
        episodes={name: ledger.of(name, episodes) for name in ("network", "random")},
        remarks=("Trained on 1000 demonstrations.",),
        simulator_provenance=settings["simulator"],
        policy_provenance={"checkpoint": str(checkpoint), "data": {"tasks": 1}},
        num_episodes=count,
    )
    pages.write_results(folder, report, ledger.records)
    return folder, report


def write_summary(root: Path, results: list[tuple[Path, Report]]) -> None:
    """The summary of what `write_results` returned."""
    folders, reports = zip(*results, strict=True)
    folder = root / "eval" / "summary-0123abcd"
    folder.mkdir()
    pages.write_summary(folder, Summary(reports), folders)


def infos_of(moves: Sequence[Sequence[Any]], drawers: Sequence[Any] | None = None) -> list[dict]:
    """The `info` of an episode's steps: `moves[t][n]` is the offset (m) of object n at step t, and
    `drawers[t]` how far the drawers are open."""
    infos = []
    for step, offsets in enumerate(moves):
        poses = [[*(np.array([-0.2, 0.1 * n, 0.9]) + o), 1, 0, 0, 0] for n, o in enumerate(offsets)]
        state = robot_state(
            tool_pose=np.zeros(7),
            objects=np.array(poses).reshape(-1, 7),
            base_pose=np.zeros(7),
            qpos=np.zeros(11),
            closedness=0.0,
            drawers=None if drawers is None else np.array(drawers[step], float),
        )
        infos.append({"success": False, "elapsed_steps": step, "state": state})
    return infos
