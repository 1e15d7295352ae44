"""The table of success rates.

Every rate has its number of episodes and Wilson's 95 % interval. An episode that failed to run is
an error, not a failure of the policy; with errors, the rate is shown as two bounds (all errors
failures, all errors successes). Rates of different simulators are never in the same table.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.evaluation.audit import InitialStates
from selfflow_robotics.evaluation.comparing.paired import PairedCounts
from selfflow_robotics.evaluation.ledger import EpisodeRecord, SuccessRule, common_episodes
from selfflow_robotics.evaluation.protocol import DRAWN
from selfflow_robotics.evaluation.reference_frames import FrameDifference
from selfflow_robotics.evaluation.results import write_whole, writing
from selfflow_robotics.evaluation.statistics import (
    clopper_pearson_interval,
    stratified_mean,
    wilson_interval,
)
from selfflow_robotics.evaluation.stopping import Answer
from selfflow_robotics.evaluation.tables import markdown_table, ruled_table
from selfflow_robotics.evaluation.timing import Timing

NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Rate:
    """A success rate over `count` episodes, with `errors` more that failed to run."""

    successes: int
    count: int
    errors: int = 0
    successes_at_any_step: int = 0

    @classmethod
    def of(cls, records: Sequence[EpisodeRecord]) -> "Rate":
        """The rate of these episodes."""
        played = [record for record in records if record.error is None]
        return cls(
            successes=sum(record.success for record in played),
            count=len(played),
            errors=len(records) - len(played),
            successes_at_any_step=sum(record.success_at_any_step for record in played),
        )

    @property
    def bounds(self) -> tuple[float, float] | None:
        """(errors as failures, errors as successes); None without episodes."""
        total = self.count + self.errors
        if total == 0:
            return None
        return self.successes / total, (self.successes + self.errors) / total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; with errors, from the lower bound's to the upper bound's."""
        return self._interval(wilson_interval)

    @property
    def exact_interval(self) -> tuple[float, float]:
        """The same by Clopper and Pearson."""
        return self._interval(clopper_pearson_interval)

    def _interval(self, method: Callable[[int, int], tuple[float, float]]) -> tuple[float, float]:
        total = self.count + self.errors
        low, _ = method(self.successes, total)
        _, high = method(self.successes + self.errors, total)
        return low, high

    def under(self, rule: SuccessRule) -> "Rate":
        """The rate if success is counted by `rule`."""
        return self if rule == "last_step" else replace(self, successes=self.successes_at_any_step)

    def text(self) -> str:
        """`42 %`, `40-45 %` with errors, `-` without episodes."""
        if self.bounds is None:
            return "-"
        low, high = self.bounds
        return percent(low) if self.errors == 0 else f"{100 * low:.0f}-{percent(high)}"

    def to_json(self) -> dict[str, Any]:
        """The counts, the rate (null while there are errors), bounds and interval."""
        rate = self.bounds[0] if self.bounds and not self.errors else None
        return {
            **asdict(self),
            "rate": rate,
            "bounds": self.bounds,
            "wilson_95": self.interval if self.count + self.errors else None,
            "clopper_pearson_95": self.exact_interval if self.count + self.errors else None,
        }


@dataclass(frozen=True)
class Report:
    """The result of an evaluation: `episodes[policy]`, in the same order for each policy."""

    task: str
    simulator: str
    protocol: str
    seed: int
    variants: tuple[str, ...]
    episodes: dict[str, list[EpisodeRecord]]  # the evaluated policy first, then the baselines
    out_of_domain: str | None = None  # why the simulator is out of domain for the first policy
    left_out: dict[str, str] = field(default_factory=dict)  # variants not played, and why
    remarks: tuple[str, ...] = ()  # further lines under the table
    reference_frame: FrameDifference | None = None  # of this machine's pictures
    answer: Answer | None = None  # of stop=sequential
    simulator_provenance: dict[str, Any] | None = None
    policy_provenance: dict[str, Any] | None = None  # checkpoint, training data
    num_episodes: int | None = None  # asked for; None: the protocol's number
    shard: str | None = None  # part of the episodes, such as 1/4; None: all
    published: dict[str, Any] | None = None  # `published.Beside` as JSON
    latency_ms: float | None = None  # as given, for clock=real

    @property
    def policy(self) -> str:
        """The evaluated policy's name."""
        return next(iter(self.episodes))

    def rate(self, policy: str, variant: str | None = None) -> Rate:
        """The rate of a policy, overall or on one variant."""
        records = self.episodes[policy]
        return Rate.of([r for r in records if variant in (None, r.variant)])

    def comparisons(self) -> dict[str, float]:
        """Exact McNemar p-value of the evaluated policy against each baseline, on
        common episodes."""
        first, *others = self.episodes
        pairs = {
            name: common_episodes(self.episodes[first], self.episodes[name]) for name in others
        }
        return {
            name: PairedCounts.of([a.success for a, _ in own], [b.success for _, b in own]).p
            for name, own in pairs.items()
        }

    def failures(self, policy: str, variant: str | None = None) -> dict[str, int]:
        """How many failed episodes failed how (`Task.failure`), in the task's order; episodes of
        earlier versions are "not recorded"."""
        counts = Counter(
            record.failure or NOT_RECORDED
            for record in self.episodes[policy]
            if record.error is None and not record.success and variant in (None, record.variant)
        )
        known = (*get_task(self.task).failures, NOT_RECORDED)
        return {kind: counts[kind] for kind in (*known, *sorted(counts)) if counts[kind]}

    def mean_of_variants(self, policy: str) -> dict[str, Any] | None:
        """The rate with equal weights for the variants, and its 95 % interval; None with errors or
        if a variant was not played. JSON-able."""
        rates = [self.rate(policy, variant) for variant in self.variants]
        if not rates or any(rate.errors or not rate.count for rate in rates):
            return None
        mean, interval = stratified_mean(
            [rate.successes / rate.count for rate in rates],
            [rate.interval for rate in rates],
            [1 / len(rates)] * len(rates),
        )
        return {"rate": mean, "interval_95": interval}

    def to_json(self) -> dict[str, Any]:
        """Everything in the table, with provenance."""
        return {
            "task": self.task,
            "simulator": self.simulator,
            "protocol": self.protocol,
            "seed": self.seed,
            "num_episodes": self.num_episodes,
            "shard": self.shard,
            "initial_states": asdict(self.initial_states()),
            "repeated_starts": self.initial_states().repeated,
            "reference_frame": self.reference_frame and asdict(self.reference_frame),
            "sequential": self.answer and asdict(self.answer),
            "timing": (timing := self.timing()) and asdict(timing),
            "out_of_domain": self.out_of_domain,
            "left_out": self.left_out,
            "remarks": self.remarks,
            "policies": {
                policy: {
                    "all": self.rate(policy).to_json(),
                    **{variant: self.rate(policy, variant).to_json() for variant in self.variants},
                }
                for policy in self.episodes
            },
            "mean_of_variants": {policy: self.mean_of_variants(policy) for policy in self.episodes},
            "failures": {
                policy: {
                    "all": self.failures(policy),
                    **{variant: self.failures(policy, variant) for variant in self.variants},
                }
                for policy in self.episodes
            },
            "published": self.published,
            "mcnemar_p": self.comparisons(),
            "simulator_provenance": self.simulator_provenance,
            "policy_provenance": self.policy_provenance,
        }

    def initial_states(self) -> InitialStates:
        """How many initial states of the evaluated policy's episodes differ."""
        return InitialStates.of(self.episodes[self.policy])

    def timing(self) -> Timing | None:
        """What the latency of the evaluated policy cost; None if the clock waited for it."""
        hz = get_task(self.task).robot.control_hz
        return Timing.of(self.episodes[self.policy], self.latency_ms, hz)

    def troubles(self) -> list[str]:
        """What went wrong, a line each: episodes that failed to run, were left out or repeat."""
        lines = []
        errors = [
            record for records in self.episodes.values() for record in records if record.error
        ]
        if errors:
            lines.append(
                f"{self.task}: {len(errors)} episodes failed to run, the last with: "
                f"{errors[-1].error}; repeat the command to retry them"
            )
        for variant, why in self.left_out.items():
            lines.append(f"{self.task}: {variant} was not evaluated: {why}")
        repeated = 0 if self.protocol in DRAWN else self.initial_states().repeated
        if repeated:
            lines.append(
                f"{self.task}: {repeated} episodes repeat the initial state of another; report "
                "this as a bug of the simulator or task"
            )
        return lines

    def table(self) -> list[list[str]]:
        """Header, and for each policy one row per variant and one for all, as text."""
        rows = [["policy", "variant", "success", "95 % interval", "n", "at any step", "errors"]]
        for policy in self.episodes:
            mark = " (out of domain)" if policy == self.policy and self.out_of_domain else ""
            for variant in (*self.variants, None):
                rate = self.rate(policy, variant)
                low, high = rate.interval
                any_step = percent(rate.successes_at_any_step / rate.count) if rate.count else "-"
                rows.append(
                    [
                        policy + mark if variant == self.variants[0] else "",
                        variant or "all",
                        rate.text(),
                        f"{100 * low:.0f}-{percent(high)}",
                        str(rate.count),
                        any_step,
                        str(rate.errors),
                    ]
                )
        return rows

    def notes(self) -> list[str]:
        """The lines under the table."""
        notes = [
            "Success is the task's rule at the last step; intervals are 95 % Wilson intervals."
        ]
        if self.out_of_domain:
            notes.append(f"Out of domain: {self.out_of_domain}.")
        for other, p in self.comparisons().items():
            notes.append(
                f"{self.policy} and {other} on the same episodes: exact McNemar p = {p:.2g}."
            )
        for policy in self.episodes:
            if failures := self.failures(policy):
                listed = ", ".join(f"{count} {kind}" for kind, count in failures.items())
                notes.append(f"Failures of {policy}: {listed}.")
        states = self.initial_states()
        if states.count:
            notes.append(f"{states.text()}.")
        if repeated := states.repeated:
            notes.append(
                f"{repeated} episodes repeat the initial state of another: the success rate counts "
                "some states several times, and its interval is too narrow."
            )
        errors = sum(self.rate(policy).errors for policy in self.episodes)
        if errors:
            notes.append(
                f"{errors} episodes failed to run: rates are bounds (all of them failures, all of "
                "them successes)."
            )
        if self.answer:
            notes.append(self.answer.text())
        if timing := self.timing():
            notes.append(timing.text())
        if self.reference_frame:
            notes.append(self.reference_frame.text())
        notes += [f"Without {variant}: {why}" for variant, why in self.left_out.items()]
        return [*notes, *self.remarks]

    def title(self) -> str:
        """The title line of the report."""
        return f"{self.task} on {self.simulator}, protocol {self.protocol}, seed {self.seed}"

    def to_text(self) -> str:
        """For the terminal."""
        return "\n".join([self.title(), "", *ruled_table(self.table()), "", *self.notes()])

    def to_markdown(self) -> str:
        """For a page."""
        notes = "\n".join(f"- {note}" for note in self.notes())
        return f"# {self.title()}\n\n{markdown_table(self.table())}\n\n{notes}"

    def write(self, folder: Path) -> None:
        """Write report.md and report.json. Raises UserError if that fails."""
        with writing(folder):
            write_whole(folder / "report.md", self.to_markdown() + "\n")
            write_whole(folder / "report.json", json.dumps(self.to_json(), indent=2) + "\n")


def percent(value: float) -> str:
    """As text, rounded to whole percents."""
    return f"{100 * value:.0f} %"
