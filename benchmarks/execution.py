"""Compare execution modes along the expert's episodes, before measuring success rates.

    python -m benchmarks.execution --checkpoint runs/rt1
    python -m benchmarks.execution --checkpoint runs/rt1 --task open_drawer --episodes 20

The scripted expert plays fresh episodes of a task on the tabletop; the policy sees the expert's
images, in every mode (docs/execution.md), and its actions are compared with the expert's.
"error" is the mean distance of their translations, "gripper" the share of steps with the same
state, "jump" the mean change of the translation from one step to the next (the expert's own is
printed above the table): chunks that do not continue one another have larger ones. The policy does
not move the robot, so this is no success rate: for those use eval/simpler.py.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from benchmarks.arguments import Parser, positive
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.tables import markdown_table
from selfflow_robotics.inference.bundle import Bundle, load_bundle
from selfflow_robotics.policies.expert import ScriptedExpert
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.robot.actions import GRIPPER, policy_from_environment
from selfflow_robotics.rollouts.engine import Trajectory, roll_out
from selfflow_robotics.training.device import choose_device

FIRST_SEED = 900_000  # below a million: not one that data were recorded with


def rows_of(horizon: int) -> dict[str, dict[str, Any]]:
    """The settings of each row, for chunks of `horizon` actions."""
    half, delay = max(1, horizon // 2), max(1, horizon // 3)
    return {
        "open_loop": {"execution": "open_loop"},
        f"receding, {half} steps": {"replan_steps": half},
        "receding, 1 step": {"replan_steps": 1},
        "ensemble": {"execution": "ensemble"},
        "streaming": {"execution": "streaming"},
        f"rtc, {half} steps": {"execution": "rtc", "replan_steps": half},
        f"receding, {half} steps, delay {delay}": {"replan_steps": half, "delay": delay},
        f"rtc, {half} steps, delay {delay}": {
            "execution": "rtc",
            "replan_steps": half,
            "delay": delay,
        },
    }


def expert_episodes(task: str, count: int, size: tuple[int, int]) -> list[Trajectory]:
    """The expert's episodes, each until success has held."""
    variants = get_task(task).variants
    episodes = [
        EpisodeSpec(task, variants[number % len(variants)], FIRST_SEED + number)
        for number in range(count)
    ]
    with SimulatorClient(SimulatorSpec("tabletop", task, size)) as client:
        played = roll_out(
            [client], episodes, ScriptedExpert(), stop_on_success=True, record="steps"
        )
        return [result.trajectory for result in played if result.trajectory is not None]


def actions_along(policy: FlowPolicy, episodes: list[Trajectory]) -> list[np.ndarray]:
    """The policy's environment actions [T, 7] for each episode's images."""
    for slot in range(len(episodes)):
        policy.begin(slot, EpisodeSpec("", "", FIRST_SEED + slot))
    found: list[list[np.ndarray]] = [[] for _ in episodes]
    for step in range(0, max(len(e.actions) for e in episodes), policy.replan_steps):
        slots = [slot for slot, e in enumerate(episodes) if step < len(e.actions)]
        shown = [episodes[slot].observations[step] for slot in slots]
        for slot, chunk in zip(slots, policy.act(slots, shown), strict=True):
            found[slot].append(chunk)
    return [
        np.concatenate(chunks)[: len(e.actions)] for chunks, e in zip(found, episodes, strict=True)
    ]


def jump_mm(actions: Sequence[np.ndarray]) -> float:
    """Mean change of the translation between steps, in mm."""
    steps = [np.linalg.norm(np.diff(one[:, :3], axis=0), axis=1) for one in actions]
    return 1e3 * float(np.concatenate(steps).mean())


def row(name: str, bundle: Bundle, episodes: list[Trajectory], **settings: Any) -> tuple[str, ...]:
    """One row of the table."""
    policy = FlowPolicy(bundle, **settings)
    calls: list[int] = []
    hook = bundle.network.register_forward_hook(lambda *_: calls.append(1))
    policy.begin(0, EpisodeSpec("", "", 0))
    for _ in range(2):  # the second is without the start of a stream
        calls.clear()
        policy.act([0], [episodes[0].observations[0]])
    evaluations = len(calls) / policy.replan_steps
    hook.remove()
    ours = actions_along(policy, episodes)
    both = [(one, e.actions) for one, e in zip(ours, episodes, strict=True)]
    error = np.concatenate([np.linalg.norm(a[:, :3] - b[:, :3], axis=1) for a, b in both]).mean()
    # Commands of 0 keep the gripper's state.
    is_open = [(policy_from_environment(a), policy_from_environment(b)) for a, b in both]
    same = np.concatenate([a[:, GRIPPER] == b[:, GRIPPER] for a, b in is_open])
    return (
        *(name, f"{evaluations:.2f}", f"{1e3 * error:.1f} mm", f"{same.mean():.1%}"),
        f"{jump_mm(ours):.1f} mm",
    )


def parse(words: Sequence[str] | None, parser: Parser) -> argparse.Namespace:
    parser.add_argument("--checkpoint", required=True, help="a run folder or a checkpoint")
    parser.add_argument("--task", default="pick_coke_can")
    parser.add_argument("--episodes", type=positive, default=12, help="of the expert")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N, or auto")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    arguments = parse(words, parser)
    try:
        bundle = load_bundle(Path(arguments.checkpoint), choose_device(arguments.device))
        bundle = bundle.with_autoencoder()
        episodes = expert_episodes(arguments.task, arguments.episodes, bundle.frames.image_size)
        expert = jump_mm([episode.actions for episode in episodes])
        steps = sum(len(episode.actions) for episode in episodes)
        print(f"{len(episodes)} episodes, {steps} steps; the expert's own jump: {expert:.1f} mm\n")
        rows = [
            row(name, bundle, episodes, **settings)
            for name, settings in rows_of(bundle.horizon).items()
        ]
    except UserError as error:
        parser.error(str(error))
    head = ("execution", "evaluations / action", "error", "gripper", "jump")
    print(markdown_table([head, *rows]))


if __name__ == "__main__":
    main()
