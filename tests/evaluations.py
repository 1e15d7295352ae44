"""Results of evaluations as eval/simpler.py writes them, with outcomes that are made up."""

from pathlib import Path

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
