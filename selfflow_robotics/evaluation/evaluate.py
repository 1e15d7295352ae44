"""Evaluate a policy on a task: play the episodes, write the ledger, the report and its page.

    from selfflow_robotics import evaluate
    report = evaluate("runs/rt1", task="pick_coke_can", num_episodes=50)
    report = evaluate(my_policy, task="open_drawer", sim="simpler", protocol="grid")
    print(report.rate(report.policy).text())

`my_policy` is an object with the methods of `policies.base.Policy`. `eval/simpler.py` does the same
on the command line, for several tasks and with baselines.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from tqdm import tqdm

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.simpler.preflight import SimplerMissing, check_simpler
from selfflow_robotics.envs.spec import TIMEOUT_S, SimplerInstall
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, get_task
from selfflow_robotics.errors import UserError, check_least, unknown
from selfflow_robotics.evaluation.audit import Audit
from selfflow_robotics.evaluation.domain import (
    TITLES,
    Simulator,
    check_robot,
    choose_simulator,
    out_of_domain,
)
from selfflow_robotics.evaluation.home import home_spec
from selfflow_robotics.evaluation.ledger import EpisodeRecord, Ledger
from selfflow_robotics.evaluation.pages.write_results import write_results
from selfflow_robotics.evaluation.players import data_of, image_size_of, provenance_of
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
from selfflow_robotics.evaluation.runner import play_missing
from selfflow_robotics.evaluation.stopping import Answer, SequentialTest, looks
from selfflow_robotics.evaluation.verifying.checksums import check_unchanged
from selfflow_robotics.inference.bundle import weights_hash
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.policies.custom import completed
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.rng import check_seed
from selfflow_robotics.training.checkpoint import resolve_checkpoint, run_of

BASELINES = ("random", "expert")
# Simulators per core. The tabletop's are quick: with two, the policy's batches fill up, which
# halves the time of an evaluation. Each of SIMPLER's keeps a core busy and needs 1.1 GB.
PER_CORE = {"tabletop": 2, "simpler": 1}

Stop = Literal["never", "sequential"]
_CHOICES = {"sim": get_args(Simulator), "protocol": get_args(Protocol), "stop": get_args(Stop)}


@dataclass(frozen=True, kw_only=True)
class EpisodesConfig:
    """What to play and where; see configs/simpler.yaml."""

    sim: Simulator = "auto"
    renderer: Literal["ray", "gl"] | None = None
    protocol: Protocol = "auto"
    num_episodes: int | None = None
    seed: int = 0
    shard: str | None = None
    stop: Stop = "never"
    target: float | None = None
    against: str | None = None
    videos: int = 3
    processes: int | None = None
    timeout_s: float = TIMEOUT_S
    simpler: SimplerInstall = field(default_factory=SimplerInstall)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"{name}: {unknown('value', str(value), choices)}")
        if self.shard is not None:
            Shard.parse(self.shard)
        check_least(self, 1, "num_episodes", "processes")
        check_seed(self.seed)
        if self.videos < 0:
            raise UserError(f"videos must not be negative, got {self.videos}")
        if self.stop == "never" and (self.target is not None or self.against is not None):
            raise UserError("target and against are for stop=sequential; add it or remove them")
        if self.stop == "sequential" and self.shard is not None:
            raise UserError("stop=sequential looks at all episodes; remove shard")

    def sequential_test(self) -> SequentialTest | None:
        """The question of stop=sequential. Raises UserError if it is not a single one."""
        if self.stop == "never":
            return None
        return SequentialTest.of(self.target, self.against)


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
    policy, settings = players[0], settings or {}
    data, question = data_of(policy), config.sequential_test()
    shard = Shard.parse(config.shard) if config.shard else None
    print(f"{task.name} on {TITLES[simulator]} ({why}), {len(episodes)} episodes")
    with ExitStack() as stack:
        spec = home_spec(
            *(simulator, task.name, config.simpler, data, image_size_of(policy)),
            *(config.renderer, config.timeout_s),
        )
        cores = len(os.sched_getaffinity(0))
        count = min(config.processes or PER_CORE[simulator] * cores, len(episodes))
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
        }
        folder = folder_of(fingerprint)
        ledger = Ledger.open(folder / shard.folder if shard else folder, fingerprint)
        check_unchanged(ledger.folder)
        print(f"results in {ledger.folder}")
        table = _Table(ledger, clients, replan_steps, config.videos)
        answer = None
        if question is not None:
            question.check_episodes(ledger.folder, episodes)
            episodes, answer = table.play_until(policy, episodes, protocol, question)
        for player in players if answer is None else players[1:]:
            table.play(player, episodes, Audit(protocol))

    instruction = settings.get("instruction")
    is_evaluated = policy.name not in BASELINES and not policy.privileged
    published = beside_result(
        *(task, simulator, protocol, len(episodes), data, is_evaluated), instruction
    )
    report = Report(
        task=task.name,
        simulator=TITLES[simulator],
        protocol=protocol,
        seed=config.seed,
        variants=tuple(variant for variant in task.variants if variant not in left_out),
        episodes={player.name: ledger.of(player.name, episodes) for player in players},
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
    )
    print(f"\n{report.to_text()}\n")  # first: the disk may be full
    write_results(ledger.folder, report, ledger.records)
    print(f"report: {ledger.folder / 'report.html'}")
    return ledger.folder, report


class _Table(NamedTuple):
    """Where policies play."""

    ledger: Ledger
    clients: list[SimulatorClient]
    replan_steps: int
    num_videos: int

    def play(self, policy: Policy, episodes: Sequence[EpisodeSpec], audit: Audit) -> None:
        """Play the missing episodes, with a progress bar."""
        done = [r for r in self.ledger.of(policy.name, episodes) if r.error is None]
        for record in done:
            audit.add(record)
        if len(done) == len(episodes):
            print(f"{policy.name}: all {len(episodes)} episodes are done")
            return
        bar = tqdm(total=len(episodes), initial=len(done), desc=policy.name, unit="episode")
        with bar:

            def show(record: EpisodeRecord) -> None:
                done.append(record)
                if record.error is None:
                    audit.add(record)
                successes = sum(r.success for r in done)
                bar.set_postfix_str(f"{successes} of {len(done)} succeed", refresh=False)
                bar.update()

            play_missing(
                self.ledger,
                policy,
                self.clients,
                episodes,
                replan_steps=steps_of(policy, self.replan_steps),
                num_videos=self.num_videos,
                on_record=show,
            )

    def play_until(
        self,
        policy: Policy,
        episodes: list[EpisodeSpec],
        protocol: Protocol,
        question: SequentialTest,
    ) -> tuple[list[EpisodeSpec], Answer]:
        """Play the missing episodes until `question` is answered: those played, and the answer."""
        for count in looks(len(episodes)):
            played = episodes[:count]
            self.play(policy, played, Audit(protocol))
            records = self.ledger.of(policy.name, played)
            answer = question.answer(self.ledger.folder, records, len(episodes))
            if answer.verdict:
                break
        return played, answer


def steps_of(policy: Policy, replan_steps: int) -> int:
    """Actions between observations; the execution decides it for a network."""
    return policy.replan_steps if isinstance(policy, FlowPolicy) else replan_steps


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
