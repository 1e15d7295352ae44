"""Play the episodes of an evaluation, with a progress bar for each policy."""

from collections.abc import Sequence
from typing import NamedTuple

from tqdm import tqdm

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.evaluation.audit import Audit
from selfflow_robotics.evaluation.ledger import EpisodeRecord, Ledger
from selfflow_robotics.evaluation.runner import play_missing
from selfflow_robotics.evaluation.stopping import LEVEL, Answer, SequentialTest, looks
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.rollouts.clock import Clock


class Playing(NamedTuple):
    """Where policies play, and how."""

    ledger: Ledger
    clients: list[SimulatorClient]
    replan_steps: int  # for policies that do not say
    num_videos: int

    def play(
        self,
        policy: Policy,
        episodes: Sequence[EpisodeSpec],
        audit: Audit,
        clock: Clock | None = None,
    ) -> None:
        """Play the missing episodes."""
        done = self._done(policy, episodes)
        if len(done) == len(episodes):
            for record in done:
                audit.add(record)
            print(f"{policy.name}: all {len(episodes)} episodes are done")
            return
        with _Progress(policy.name, len(episodes), len(done), audit) as progress:
            progress.count(done)
            self._play(policy, episodes, clock, progress)

    def play_until(
        self,
        policy: Policy,
        episodes: list[EpisodeSpec],
        audit: Audit,
        question: SequentialTest,
        clock: Clock | None = None,
    ) -> tuple[list[EpisodeSpec], Answer]:
        """Play the missing episodes until `question` is answered: those played, and the answer. One
        bar for all looks shows the evidence at the last one."""
        seen, known = 0, len(self._done(policy, episodes))
        with _Progress(policy.name, len(episodes), known, audit) as progress:
            for count in looks(len(episodes)):
                played = episodes[:count]
                progress.count(self._done(policy, episodes[seen:count]))
                self._play(policy, played, clock, progress)
                records, seen = self.ledger.of(policy.name, played), count
                answer = question.answer(self.ledger.folder, records, len(episodes))
                progress.note = f", e = {answer.e:.3g} of {1 / LEVEL:g}"
                progress.show()
                if answer.verdict:
                    break
        return played, answer

    def _done(self, policy: Policy, episodes: Sequence[EpisodeSpec]) -> list[EpisodeRecord]:
        return [r for r in self.ledger.of(policy.name, episodes) if r.error is None]

    def _play(
        self,
        policy: Policy,
        episodes: Sequence[EpisodeSpec],
        clock: Clock | None,
        progress: "_Progress",
    ) -> None:
        play_missing(
            self.ledger,
            policy,
            self.clients,
            episodes,
            replan_steps=steps_of(policy, self.replan_steps),
            num_videos=self.num_videos,
            on_record=progress.add,
            clock=clock,
        )


class _Progress:
    """A bar over the episodes of a policy. Their initial states go to `audit`."""

    def __init__(self, name: str, total: int, known: int, audit: Audit) -> None:
        """`known`: episodes that were played before."""
        self._bar = tqdm(total=total, initial=known, desc=name, unit="episode")
        self._audit = audit
        self._successes = self._count = 0
        self.note = ""

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def count(self, records: Sequence[EpisodeRecord]) -> None:
        """Count episodes that are in the bar already."""
        for record in records:
            if record.error is None:
                self._audit.add(record)
            self._count += 1
            self._successes += record.success

    def add(self, record: EpisodeRecord) -> None:
        """Count an episode that was just played."""
        self.count([record])
        self.show()
        self._bar.update()

    def show(self) -> None:
        """Update the text beside the bar."""
        text = f"{self._successes} of {self._count} succeed{self.note}"
        self._bar.set_postfix_str(text, refresh=False)


def steps_of(policy: Policy, replan_steps: int) -> int:
    """Actions between observations; the execution decides it for a network."""
    return policy.replan_steps if isinstance(policy, FlowPolicy) else replan_steps
