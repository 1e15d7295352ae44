"""Evaluate a policy on a task: play the episodes, write the ledger, the report and its page.

    from selfflow_robotics import evaluate
    report = evaluate("runs/rt1", task="pick_coke_can", num_episodes=50)
    report = evaluate(my_policy, task="open_drawer", sim="simpler", protocol="grid")
    print(report.rate(report.policy).text())

`my_policy` is an object with the methods of `policies.base.Policy`. `eval/simpler.py` does the same
on the command line, for several tasks and with baselines.
"""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.simpler.preflight import SimplerMissing, check_simpler
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.audit import Audit
from selfflow_robotics.evaluation.doctor.first_answers import (
    fault_text,
    is_foreign,
    probe,
    probe_text,
)
from selfflow_robotics.evaluation.domain import (
    TITLES,
    check_robot,
    choose_simulator,
    out_of_domain,
)
from selfflow_robotics.evaluation.home import home_spec
from selfflow_robotics.evaluation.ledger import Ledger
from selfflow_robotics.evaluation.pages.write_results import write_results
from selfflow_robotics.evaluation.players import data_of, image_size_of, provenance_of
from selfflow_robotics.evaluation.playing import Playing
from selfflow_robotics.evaluation.protocol import (
    Protocol,
    Shard,
    evaluation_episodes,
    resolve_protocol,
    tasks_of,
)
from selfflow_robotics.evaluation.published import beside_result
from selfflow_robotics.evaluation.reference_frames import compare_frame
from selfflow_robotics.evaluation.remarks import remarks
from selfflow_robotics.evaluation.report import Report
from selfflow_robotics.evaluation.results import folder_name
from selfflow_robotics.evaluation.settings import EpisodesConfig
from selfflow_robotics.evaluation.tables import text_table
from selfflow_robotics.evaluation.timing import latency_rows, results_by_latency
from selfflow_robotics.evaluation.verifying.checksums import check_unchanged
from selfflow_robotics.inference.bundle import weights_hash
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.policies.custom import completed
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.training.checkpoint import resolve_checkpoint, run_of

__all__ = ["EpisodesConfig", "Plan", "evaluate", "evaluate_plan", "make_plan"]

logger = logging.getLogger(__name__)

BASELINES = ("random", "expert")
# Simulators per core. The tabletop's are quick: with two, the policy's batches fill up, which
# halves the time of an evaluation. Each of SIMPLER's keeps a core busy and needs 1.1 GB.
PER_CORE = {"tabletop": 2, "simpler": 1}


class Plan(NamedTuple):
    """The evaluation of one task: what will be played, and where."""

    task: Task
    simulator: str
    why: str  # that simulator
    protocol: Protocol
    episodes: list[EpisodeSpec]
    left_out: dict[str, str]  # variants that the simulator cannot play, and why
    in_order: list[EpisodeSpec]  # `episodes`, and those of `left_out`


def make_plan(config: EpisodesConfig, task: Task, data: dict[str, Any] | None) -> Plan:
    """Plan one task, before any other is played for hours; its shard may have no episodes.

    Args:
        data: provenance of the policy's training data (`players.data_of`).

    Raises SimplerMissing if SIMPLER is to be used and does not run here, and UserError for
    settings that do not fit the task or each other.
    """
    install, missing = config.simpler.resolved(), {}

    def check() -> None:
        missing.update(check_simpler(install.path, install.python, task, install.allow_invisible))

    simulator, why = choose_simulator(config.sim, data, check)
    left_out = missing if simulator == "simpler" else {}
    protocol = resolve_protocol(config.protocol, simulator)
    asked = config.num_episodes
    episodes = evaluation_episodes(task, simulator, protocol, asked, config.seed)
    if config.stop == "sequential" and asked is None:  # in the order of a part of the protocol
        episodes = evaluation_episodes(task, simulator, protocol, len(episodes), config.seed)
    episodes = Shard.parse(config.shard).of(episodes) if config.shard else episodes
    if question := config.sequential_test():
        question.check_task(task.name, protocol, config.seed)
    playable = [episode for episode in episodes if episode.variant not in left_out]
    if episodes and not playable:
        raise SimplerMissing(next(iter(left_out.values())))
    return Plan(task, simulator, why, protocol, playable, left_out, episodes)


def evaluate_plan(
    config: EpisodesConfig,
    plan: Plan,
    players: Sequence[Policy],
    folder_of: Callable[[dict[str, Any]], Path],
    *,
    replan_steps: int = 6,
    checkpoint: Path | None = None,
    settings: dict[str, Any] | None = None,
) -> tuple[Path, Report]:
    """Play the missing episodes of one task; write and print its report. Returns its folder too.

    Args:
        players: the policy to evaluate, then those that play the same episodes for comparison.
        folder_of: the results folder, given everything that the results depend on.
        replan_steps: actions between observations, for policies that do not say.
        checkpoint: the policy's, if it is a network.
        settings: of the policy; they become part of what the results depend on.
    """
    task, simulator, why, protocol, episodes, left_out, in_order = plan
    policy, *baselines = players
    data, question, settings = data_of(policy), config.sequential_test(), settings or {}
    if (clock := config.real_clock()) and isinstance(policy, FlowPolicy):
        policy = policy.with_whole_chunks()
    shard = Shard.parse(config.shard) if config.shard else None
    print(f"{task.name} on {TITLES[simulator]} ({why}), {len(episodes)} episodes")
    with ExitStack() as stack:
        spec = home_spec(
            *(simulator, task.name, config.simpler, data, image_size_of(policy)),
            *(config.renderer, config.timeout_s),
        )
        at_once = PER_CORE[simulator] * len(os.sched_getaffinity(0))
        if config.measures_latency:
            at_once = 1
        count = min(config.processes or at_once, len(episodes))
        clients = [stack.enter_context(SimulatorClient(spec)) for _ in range(count)]
        provenance = clients[0].provenance()
        frame = compare_frame(clients[0], task)
        fingerprint = {
            "policy": policy.name,
            "checkpoint": weights_hash(checkpoint) if checkpoint else None,
            "simulator": provenance,
            "protocol": protocol,
            "seed": config.seed,
            "replan_steps": replan_steps,
            "num_steps": None,
            "guidance_scale": None,
            **getattr(policy, "fingerprint", {}),
            **settings,
            **config.clock_settings(),
        }
        folder = folder_of(fingerprint)
        ledger = Ledger.open(folder / shard.folder if shard else folder, fingerprint)
        check_unchanged(ledger.folder)
        print(f"results in {ledger.folder}")
        playing = Playing(ledger, clients, replan_steps, config.videos)
        answer = None
        if question is not None:
            question.check_episodes(ledger.folder, episodes)
        if config.probe and is_foreign(policy) and not ledger.of(policy.name, episodes):
            _probe(policy, clients[0], episodes)
        if question is not None:
            episodes, answer = playing.play_until(
                *(policy, episodes, Audit(protocol), question, clock)
            )
        else:
            playing.play(policy, episodes, Audit(protocol), clock)
        for player in baselines:
            playing.play(player, episodes, Audit(protocol))

    instruction = settings.get("instruction")
    is_evaluated = policy.name not in BASELINES and not policy.privileged
    published = beside_result(
        *(task, simulator, protocol, len(episodes), data, is_evaluated, instruction, config.clock)
    )
    report = Report(
        task=task.name,
        simulator=TITLES[simulator],
        protocol=protocol,
        seed=config.seed,
        variants=tuple(variant for variant in task.variants if variant not in left_out),
        episodes={one.name: ledger.of(one.name, episodes) for one in (policy, *baselines)},
        out_of_domain=out_of_domain(simulator, data),
        left_out=left_out,
        remarks=remarks(task, simulator, provenance, data, instruction, published),
        simulator_provenance=provenance,
        reference_frame=frame,
        policy_provenance=provenance_of(policy, checkpoint),
        # `eval/verify.py` leaves out the same variants of as many episodes.
        num_episodes=1 + in_order.index(episodes[-1]) if answer else config.num_episodes,
        shard=config.shard,
        published=published.to_json(),
        answer=answer,
        latency_ms=config.latency_ms,
    )
    print(f"\n{report.to_text()}\n")  # first: the disk may be full
    write_results(ledger.folder, report, ledger.records)
    if clock and len(by_latency := results_by_latency(ledger.folder)) > 1:
        print(f"{text_table(latency_rows(by_latency))}\n")
    print(f"report: {ledger.folder / 'report.html'}")
    return ledger.folder, report


def _probe(policy: Policy, client: SimulatorClient, episodes: Sequence[EpisodeSpec]) -> None:
    """Warn about conventions of a foreign policy that seem to be wrong."""
    if findings := probe(policy, client, episodes):
        print(probe_text(findings))
    for one in findings:
        if one.verdict == "fault":
            logger.warning(fault_text(one))


def evaluate(
    policy: Policy | Path | str,
    task: str = DEFAULT_TASK,
    *,
    output: Path | str | None = None,
    replan_steps: int = 6,
    **episodes: Any,
) -> Report:
    """Evaluate a policy, or the checkpoint of a run, on one task. Repeating the call resumes it.

    Args:
        policy: the path of a run or checkpoint, or an object (`policies.base.Policy`). Results
            of an object are found again by its `name` and, if it has one, `fingerprint`: a dict,
            such as {"weights": SHA-256}, that tells its versions apart.
        output: the results folder; None: one below RUN/eval, or below runs/eval/NAME.
        replan_steps: actions between observations.
        episodes: the settings of `EpisodesConfig`, such as sim="simpler", num_episodes=50.

    Raises UserError for settings that do not fit, and if results cannot be written.
    """
    if replan_steps < 1:
        raise UserError(f"replan_steps must be at least 1, got {replan_steps}")
    config, checkpoint = EpisodesConfig(**episodes), None
    root = Path("runs") / "eval"
    if isinstance(policy, str | Path):
        checkpoint = resolve_checkpoint(Path(policy))
        root = run_of(checkpoint) / "eval"
        policy = FlowPolicy.from_checkpoint(checkpoint, replan_steps=replan_steps)
    else:
        policy = completed(policy, f"policy {type(policy).__name__}")
        root = root / policy.name
    data, known = data_of(policy), get_task(task)
    if (own := tasks_of(known, config.protocol)) != [known]:
        names = ", ".join(one.name for one in own)
        raise UserError(f"protocol={config.protocol} has several tasks; name one: {names}")
    check_robot(known, data)
    plan = make_plan(config, known, data)

    def folder_of(fingerprint: dict[str, Any]) -> Path:
        if output is not None:
            return Path(output)
        kind = f"{plan.simulator}-{known.name}-{plan.protocol}"
        return root / folder_name(kind, fingerprint)

    _, report = evaluate_plan(
        config, plan, [policy], folder_of, replan_steps=replan_steps, checkpoint=checkpoint
    )
    return report
