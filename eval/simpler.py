"""Evaluate a policy in simulation: a table of success rates with confidence intervals.

    python eval/simpler.py --task pick_coke_can
    python eval/simpler.py --task pick_coke_can --checkpoint runs/rt1/checkpoints/step_0003000
    python eval/simpler.py sim=simpler protocol=visual_matching     # SIMPLER's published protocol
    python eval/simpler.py policy=expert                            # no checkpoint needed
    python eval/simpler.py experiment=debug policy=expert           # a minute

The default policy is the latest fine-tuned run. The default simulator (sim=auto) is the one its
training data came from: the built-in MuJoCo tabletop, or SIMPLER from your own checkout
(sim=simpler; if it is missing, the command says what to install). Random actions and a scripted
expert play the same episodes for comparison.

Results are written to RUN/eval/: episodes.jsonl (one line per episode), videos/, report.md and
report.json. Repeat an interrupted command to resume it.
"""

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import find_checkpoint, run_of
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.simpler.preflight import check_simpler
from selfflow_robotics.envs.spec import TIMEOUT_S, SimplerInstall
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.envs.tasks.catalog import TASKS, get_task
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.domain import (
    TITLES,
    Simulator,
    choose_simulator,
    is_real,
    out_of_domain,
)
from selfflow_robotics.evaluation.home import home_spec
from selfflow_robotics.evaluation.ledger import EpisodeRecord, Ledger
from selfflow_robotics.evaluation.protocol import Protocol, evaluation_episodes, resolve_protocol
from selfflow_robotics.evaluation.published import published_line
from selfflow_robotics.evaluation.report import Report
from selfflow_robotics.evaluation.results import folder_name
from selfflow_robotics.evaluation.runner import play_missing
from selfflow_robotics.flow.guidance import check_scale
from selfflow_robotics.flow.solvers import check_num_steps
from selfflow_robotics.inference.bundle import weights_hash
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.policies.expert import ScriptedExpert
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.policies.random import RandomPolicy
from selfflow_robotics.rng import check_seed


@dataclass(frozen=True)
class EvalConfig:
    task: str
    policy: Literal["network", "random", "expert"] = "network"
    checkpoint: str | None = None
    sim: Simulator = "auto"
    renderer: Literal["ray", "gl"] | None = None
    protocol: Protocol = "auto"
    num_episodes: int | None = None
    seed: int = 0
    replan_steps: int = 6
    num_steps: int | None = None
    guidance_scale: float | None = None
    joint: bool = False
    baselines: tuple[Literal["random", "expert"], ...] = ("random", "expert")
    videos: int = 3
    processes: int | None = None
    device: str = "auto"
    output: str | None = None
    timeout_s: float = TIMEOUT_S
    simpler: SimplerInstall = field(default_factory=SimplerInstall)

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", get_task(self.task).name)  # not SIMPLER's name
        check_least(self, 1, "num_episodes", "replan_steps", "processes")
        if self.num_steps is not None:
            check_num_steps(self.num_steps)
        check_seed(self.seed)
        if self.videos < 0:
            raise UserError(f"videos must not be negative, got {self.videos}")
        if self.guidance_scale is not None:
            check_scale(self.guidance_scale)


@hydra_app(
    "simpler",
    EvalConfig,
    flags=(
        Flag("--task", help=f"the task: {', '.join(TASKS)}"),
        Flag("--checkpoint", literal=True, help="a run folder or one of its checkpoints"),
    ),
)
def main(config: EvalConfig) -> int:
    torch.set_num_threads(1)  # the simulators use the other cores
    task = get_task(config.task)
    is_network = config.policy == "network"
    checkpoint = find_checkpoint(config.checkpoint, "finetune") if is_network else None
    policy = trained(checkpoint, config) if checkpoint else scripted(config.policy, config)
    data = policy.data_provenance if isinstance(policy, FlowPolicy) else None
    simulator, why = pick_simulator(config, data)
    protocol = resolve_protocol(config.protocol, simulator)
    episodes = evaluation_episodes(task, simulator, protocol, config.num_episodes, config.seed)
    print(f"policy: {checkpoint or config.policy}")
    print(f"{task.name} on {TITLES[simulator]} ({why}), {len(episodes)} episodes")

    with ExitStack() as stack:
        image_size = policy.image_size if isinstance(policy, FlowPolicy) else None
        spec = home_spec(
            *(simulator, task.name, config.simpler, data, image_size),
            *(config.renderer, config.timeout_s),
        )
        count = min(config.processes or len(os.sched_getaffinity(0)), len(episodes))
        clients = [stack.enter_context(SimulatorClient(spec)) for _ in range(count)]
        provenance = clients[0].provenance()
        fingerprint = {
            "policy": policy.name,
            "checkpoint": weights_hash(checkpoint) if checkpoint else None,
            "simulator": provenance,
            "protocol": protocol,
            "seed": config.seed,
            "replan_steps": config.replan_steps,
            "num_steps": config.num_steps,
            "guidance_scale": config.guidance_scale,
            **({"joint": True} if config.joint else {}),
        }
        ledger = Ledger.open(output_folder(config, checkpoint, simulator, fingerprint), fingerprint)
        print(f"results in {ledger.folder}")
        baselines = [name for name in config.baselines if name != config.policy]
        players = [policy, *(scripted(name, config) for name in baselines)]
        for player in players:
            play(config, ledger, player, clients, episodes)

    report = Report(
        task=task.name,
        simulator=TITLES[simulator],
        protocol=protocol,
        seed=config.seed,
        variants=task.variants,
        episodes={player.name: ledger.of(player.name, episodes) for player in players},
        out_of_domain=out_of_domain(simulator, data),
        remarks=remarks(task, simulator, protocol, provenance, data),
        simulator_provenance=provenance,
        policy_provenance={"checkpoint": str(checkpoint), "data": data} if checkpoint else None,
    )
    print(f"\n{report.to_text()}\n")  # first: the disk may be full
    report.write(ledger.folder)
    print(f"report: {ledger.folder / 'report.md'}")
    errors = [record for records in report.episodes.values() for record in records if record.error]
    if errors:
        print(
            f"{len(errors)} episodes failed to run, the last with: {errors[-1].error}; repeat the "
            "command to retry them",
            file=sys.stderr,
        )
    return 1 if errors else 0


def remarks(
    task: Task,
    simulator: str,
    protocol: str,
    provenance: dict[str, Any],
    data: dict[str, Any] | None,
) -> tuple[str, ...]:
    """Remarks that belong next to the success rates."""
    lines = []
    if data is not None and data.get("simulator") == simulator:
        lines.append(f"Trained on demonstrations recorded in {TITLES[simulator]} itself.")
    if provenance.get("stage_is_stand_in"):
        lines.append(
            f"The table ({provenance['stage']}) is a stand-in for SIMPLER's own, with the same "
            "height and position. SIMPLER's photograph hides it in the images."
        )
    if simulator == "simpler" and task.simpler and task.simpler.remark:
        lines.append(task.simpler.remark)
    comparable = data is not None and is_real(data) and simulator == "simpler"
    if comparable and protocol == "visual_matching" and (line := published_line(task.name)):
        lines.append(line)
    return tuple(lines)


def play(
    config: EvalConfig,
    ledger: Ledger,
    policy: Policy,
    clients: list[SimulatorClient],
    episodes: list[EpisodeSpec],
) -> None:
    """Play the missing episodes, with a progress bar."""
    done = [record for record in ledger.of(policy.name, episodes) if record.error is None]
    if len(done) == len(episodes):
        print(f"{policy.name}: all {len(episodes)} episodes are done")
        return
    with tqdm(total=len(episodes), initial=len(done), desc=policy.name, unit="episode") as bar:

        def show(record: EpisodeRecord) -> None:
            done.append(record)
            successes = sum(r.success for r in done)
            bar.set_postfix_str(f"{successes} of {len(done)} succeed", refresh=False)
            bar.update()

        play_missing(
            ledger,
            policy,
            clients,
            episodes,
            replan_steps=config.replan_steps,
            num_videos=config.videos,
            on_record=show,
        )


def scripted(name: str, config: EvalConfig) -> Policy:
    """The policy `name`, which needs no training."""
    if name == "random":
        return RandomPolicy(config.seed, horizon=config.replan_steps)
    return ScriptedExpert()


def trained(checkpoint: Path, config: EvalConfig) -> FlowPolicy:
    """The network of `checkpoint` as a policy."""
    return FlowPolicy.from_checkpoint(
        checkpoint,
        replan_steps=config.replan_steps,
        num_steps=config.num_steps,
        guidance_scale=config.guidance_scale,
        joint=config.joint,
        device=config.device,
    )


def pick_simulator(config: EvalConfig, data: dict[str, Any] | None) -> tuple[str, str]:
    """(simulator, why)."""
    install, task = config.simpler.resolved(), get_task(config.task)
    check = partial(check_simpler, install.path, install.python, task)
    return choose_simulator(config.sim, data, check)


def output_folder(
    config: EvalConfig, checkpoint: Path | None, simulator: str, fingerprint: dict[str, Any]
) -> Path:
    """The results folder: `output`, or one named after the settings."""
    if config.output:
        return Path(config.output)
    root = run_of(checkpoint) / "eval" if checkpoint else Path("runs") / "eval" / config.policy
    kind = f"{simulator}-{config.task}-{fingerprint['protocol']}"
    return root / folder_name(kind, fingerprint)


if __name__ == "__main__":
    main()
