"""Evaluate a policy in simulation: a table of success rates with confidence intervals.

    python eval/simpler.py --task pick_coke_can
    python eval/simpler.py --task pick_coke_can --checkpoint runs/rt1/checkpoints/step_0003000
    python eval/simpler.py --task all                            # or widowx, or move_near,drawer
    python eval/simpler.py sim=simpler protocol=visual_matching  # SIMPLER's published protocols
    python eval/simpler.py sim=simpler protocol=variant_aggregation
    python eval/simpler.py shard=1/4                             # a quarter of the episodes
    python eval/simpler.py instruction="open top drawer"         # instead of the task's own
    python eval/simpler.py execution=ensemble                    # docs/execution.md
    python eval/simpler.py clock=real                            # the policy's latency counts
    python eval/simpler.py clock=real -m latency_ms=0,100,300,600   # success against latency
    python eval/simpler.py stop=sequential target=0.85           # until the answer is clear
    python eval/simpler.py policy=expert                         # no checkpoint needed
    python eval/simpler.py policy=remote:ws://127.0.0.1:8000     # a policy server
    python eval/simpler.py policy=my_policies:MyPolicy           # a Python class of your own
    python eval/simpler.py experiment=debug policy=expert        # a minute

Google robot (--task all): pick_coke_can, move_near, open_drawer, close_drawer and
place_apple_in_closed_top_drawer; also pick_object, put_can_on_plate, and versions for one drawer or
orientation, such as open_top_drawer and pick_standing_coke_can. WidowX (--task widowx):
spoon_on_towel, carrot_on_plate, stack_cube and put_eggplant_in_basket. A policy can only play the
tasks of the robot that it was trained on.

The default policy is the latest fine-tuned run. Policy servers speak openpi's protocol, or that of
vla-eval's model servers (policy=remote:vla-eval+ws://HOST:PORT); see docs/serving.md. Random
actions and a scripted expert play the same episodes for comparison.

The default simulator (sim=auto) is the one the policy's training data came from: the built-in
MuJoCo tabletop, or SIMPLER from your own checkout (sim=simpler; if it is missing, the command says
what to install).

Results are written to RUN/eval/: a folder per task with episodes.jsonl (one line per episode),
videos/, report.html (a page to look at), report.md, report.json, report.csv, episodes.csv and
checksums.json, and for several tasks a folder with summary.html. Repeat an interrupted command to
resume it. eval/report.py regenerates the pages, eval/compare.py compares the results of two
policies, and eval/verify.py checks all files of a result.

A protocol with a grid promises that all initial states differ. An evaluation stops with an error at
the first episode that repeats one, and reports the count.

To share an evaluation between processes or machines, run it with shard=1/4, shard=2/4 and so on.
Then run it without shard= for the report over all episodes; if the shards ran on several machines,
copy their folders shard_K_of_N into one results folder first.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import find_checkpoint, run_of
from selfflow_robotics.envs.simpler.preflight import SimplerMissing
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.envs.tasks.catalog import get_tasks, own_names
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.domain import check_robot
from selfflow_robotics.evaluation.evaluate import EpisodesConfig, Plan, evaluate_plan, make_plan
from selfflow_robotics.evaluation.pages.write_results import write_summary
from selfflow_robotics.evaluation.players import (
    NetworkSettings,
    RemoteConfig,
    check_network_settings,
    check_policy,
    data_of,
    network_fingerprint,
    network_policy,
)
from selfflow_robotics.evaluation.protocol import tasks_of
from selfflow_robotics.evaluation.report import Report
from selfflow_robotics.evaluation.results import folder_name
from selfflow_robotics.evaluation.summary import Summary
from selfflow_robotics.policies.address import is_remote, parse_address
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.policies.custom import custom_policy, is_custom
from selfflow_robotics.policies.expert import ScriptedExpert
from selfflow_robotics.policies.random import RandomPolicy


@dataclass(frozen=True, kw_only=True)
class EvalConfig(NetworkSettings, EpisodesConfig):
    task: str
    baselines: tuple[Literal["random", "expert"], ...] = ("random", "expert")
    output: str | None = None
    remote: RemoteConfig = field(default_factory=RemoteConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "task", own_names(self.task))
        if len(tasks_to_evaluate(self)) > 1 and self.output:
            raise UserError(
                f"output= is for one task, got {self.task}; several tasks have a folder each"
            )
        check_least(self, 1, "replan_steps")
        check_policy(self.policy)
        check_network_settings(self)
        self.sequential_test()


@hydra_app(
    "simpler",
    EvalConfig,
    flags=(
        Flag("--task", literal=True, help="tasks, separated by commas, or a group (all, ...)"),
        Flag("--checkpoint", literal=True, help="a run folder or one of its checkpoints"),
    ),
)
def main(config: EvalConfig) -> int:
    torch.set_num_threads(1)  # the simulators use the other cores
    tasks = tasks_to_evaluate(config)
    is_network = config.policy == "network"
    checkpoint = find_checkpoint(config.checkpoint, "finetune") if is_network else None
    policy = network_policy(checkpoint, config) if checkpoint else other(config.policy, config)
    data = data_of(policy)
    for task in tasks:
        check_robot(task, data)
    print(f"policy: {checkpoint or config.policy}")
    plans, lacking = [], []
    for task in tasks:
        try:
            plans.append(make_plan(config, task, data))
        except SimplerMissing as error:  # perhaps a file that only this task needs
            if len(tasks) == 1:
                raise
            lacking.append(f"{task.name} was not evaluated: {error}")
    if not plans:
        raise SimplerMissing(lacking[0])
    if not any(one.episodes for one in plans):
        raise UserError(f"shard={config.shard} has no episodes of {config.task}")
    results = [evaluate(config, one, policy, checkpoint) for one in plans if one.episodes]
    if len(tasks) > 1:
        summarize(config, results, checkpoint)
    if close := getattr(policy, "close", None):
        close()
    print(*lacking, sep="\n", end="\n" if lacking else "", file=sys.stderr)
    troubles = [trouble for _, report in results for trouble in report.troubles()]
    print(*troubles, sep="\n", end="\n" if troubles else "", file=sys.stderr)
    return 1 if lacking or troubles else 0


def tasks_to_evaluate(config: EvalConfig) -> list[Task]:
    """The tasks, or the surroundings in which each of them is evaluated."""
    return [own for task in get_tasks(config.task) for own in tasks_of(task, config.protocol)]


def evaluate(
    config: EvalConfig, plan: Plan, policy: Policy, checkpoint: Path | None
) -> tuple[Path, Report]:
    """Play one task with the policy and the baselines. Returns the results folder and report."""
    baselines = [other(name, config) for name in config.baselines if name != config.policy]
    return evaluate_plan(
        config,
        plan,
        [policy, *baselines],
        lambda fingerprint: output_folder(config, plan, checkpoint, fingerprint),
        replan_steps=config.replan_steps,
        checkpoint=checkpoint,
        settings={
            "num_steps": config.num_steps,
            "guidance_scale": config.guidance_scale,
            **network_fingerprint(config),
        },
    )


def summarize(
    config: EvalConfig, results: list[tuple[Path, Report]], checkpoint: Path | None
) -> None:
    """Print and write the table over all tasks."""
    folders, reports = zip(*results, strict=True)
    summary = Summary(reports)
    print(f"\n{summary.to_text()}\n")
    settings = {"settings": [report.to_json() for report in reports]}
    folder = results_root(config, checkpoint) / folder_name("summary", settings)
    write_summary(folder, summary, folders)
    print(f"summary: {folder / 'summary.html'}")


def other(name: str, config: EvalConfig) -> Policy:
    """The policy `name`, which is not a checkpoint."""
    if is_remote(name):
        # It needs msgpack and websockets, which other policies do not.
        from selfflow_robotics.policies.remote import RemotePolicy

        return RemotePolicy(parse_address(name), config.remote.timeout_s, config.remote.image_key)
    if is_custom(name):
        return custom_policy(name)
    if name == "random":
        return RandomPolicy(config.seed, horizon=config.replan_steps)
    return ScriptedExpert()


def output_folder(
    config: EvalConfig, plan: Plan, checkpoint: Path | None, fingerprint: dict[str, Any]
) -> Path:
    """The results folder: `output`, or one named after the settings."""
    if config.output:
        return Path(config.output)
    kind = f"{plan.simulator}-{plan.task.name}-{plan.protocol}"
    return results_root(config, checkpoint) / folder_name(kind, fingerprint)


def results_root(config: EvalConfig, checkpoint: Path | None) -> Path:
    """The folder of all results of this policy."""
    if checkpoint:
        return run_of(checkpoint) / "eval"
    name = "remote" if is_remote(config.policy) else config.policy.replace(":", "-")
    return Path("runs") / "eval" / name


if __name__ == "__main__":
    main()
