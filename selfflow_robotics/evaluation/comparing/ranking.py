"""The same policies in two simulators: does one rank them as the other does?"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.comparing.correlation import Agreement, Score, agreement, ranks
from selfflow_robotics.evaluation.comparing.matching import Evaluation, short
from selfflow_robotics.evaluation.domain import TITLES
from selfflow_robotics.evaluation.ledger import FINGERPRINT, SuccessRule
from selfflow_robotics.evaluation.published import Published, real_and_simulated
from selfflow_robotics.evaluation.statistics import wilson_interval
from selfflow_robotics.evaluation.tables import ruled_table

REAL = "the real robot"


@dataclass(frozen=True)
class Ranking:
    """The success rates of policies in two worlds, best in the reference first."""

    task: str
    judged_name: str
    reference_name: str
    policies: tuple[str, ...]
    judged: tuple[Score, ...]
    reference: tuple[Score, ...]
    remarks: tuple[str, ...] = ()

    def agreement(self) -> Agreement:
        """MMRV and Pearson's correlation."""
        return agreement(self.judged, self.reference)

    def table(self) -> list[list[str]]:
        """Header, and a row per policy."""
        header = ["policy", self.judged_name, "rank", self.reference_name, "rank"]
        places = [ranks([s.rate for s in scores]) for scores in (self.judged, self.reference)]
        rows = zip(self.policies, self.judged, places[0], self.reference, places[1], strict=True)
        return [header, *([p, _text(a), f"{i:g}", _text(b), f"{j:g}"] for p, a, i, b, j in rows)]

    def to_text(self) -> str:
        """For the terminal."""
        title = (
            f"{self.task}: {len(self.policies)} policies in {self.judged_name} (judged) and "
            f"{self.reference_name} (reference)"
        )
        return "\n".join(
            [title, "", *ruled_table(self.table()), "", sentence(self.agreement()), *self.remarks]
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "task": self.task,
            "judged": self.judged_name,
            "reference": self.reference_name,
            "policies": [
                {
                    "policy": policy,
                    **{
                        side: {"rate": score.rate, "episodes": score.count}
                        for side, score in (("judged", one), ("reference", other))
                    },
                }
                for policy, one, other in zip(
                    self.policies, self.judged, self.reference, strict=True
                )
            ],
            **asdict(self.agreement()),
            "remarks": self.remarks,
        }


def sentence(found: Agreement) -> str:
    """Both measures with their intervals."""
    return (
        f"MMRV {found.mmrv:.3f} [{found.mmrv_95[0]:.3f}, {found.mmrv_95[1]:.3f}], "
        f"Pearson {found.pearson:.3f} [{found.pearson_95[0]:.3f}, {found.pearson_95[1]:.3f}]"
    )


def find_rankings(
    folders: Iterable[str],
    judged: str,
    reference: str,
    success: SuccessRule,
    protocol: str | None = None,
) -> list[Ranking]:
    """A ranking for each task that at least two policies played in both simulators.

    Policies are the same if all their settings are. Raises UserError if there are none, or if a
    policy has several results of a task in one simulator.
    """
    found: dict[tuple[str, str], dict[str, Evaluation]] = {}
    for given in folders:
        paths = [path.parent for path in sorted(Path(given).rglob(FINGERPRINT))]
        if not paths:
            raise UserError(f"{given} has no results of eval/simpler.py")
        for folder in paths:
            if folder.name.startswith("shard_") and folder.parent in paths:
                continue
            one = Evaluation.open(folder)
            simulator = str(one.simulator.get("simulator"))
            if simulator not in (judged, reference) or protocol not in (None, one.protocol):
                continue
            player = json.dumps(one.player, sort_keys=True)
            sides = found.setdefault((one.task, player), {})
            if simulator in sides:
                first = sides[simulator].folder
                raise UserError(
                    f"{one.settings['policy']} has several results of {one.task} in {simulator}, "
                    f"in {first} and {folder}; name the folders to use, or protocol="
                )
            sides[simulator] = one
    rankings = []
    for task in dict.fromkeys(task for task, _ in found):
        pairs = [
            (sides[judged], sides[reference])
            for (other, _), sides in found.items()
            if other == task and len(sides) == 2
        ]
        if len(pairs) > 1:
            rankings.append(_ranking(task, pairs, success))
    if not rankings:
        raise UserError(
            f"no two policies have results of the same task in both {judged} and {reference}; "
            "evaluate each with sim= both"
        )
    return rankings


def _ranking(
    task: str, pairs: Sequence[tuple[Evaluation, Evaluation]], success: SuccessRule
) -> Ranking:
    rows, remarks = [], []
    for pair in pairs:
        scores = []
        for one in pair:
            records = [record for record in one.records() if record.error is None]
            if not records:
                raise UserError(f"{one.folder} has no episodes; evaluate there first")
            scores.append(Score(sum(r.succeeded(success) for r in records), len(records)))
        rows.append((_name(pair[0], [p for p, _ in pairs]), *scores))
    rows.sort(key=lambda row: -row[2].rate)
    if any(one.protocol != other.protocol or one.seed != other.seed for one, other in pairs):
        remarks.append("The episodes of the two simulators begin differently.")
    policies, judged, reference = zip(*rows, strict=True)
    names = [TITLES.get(str(one.simulator.get("simulator")), "the simulator") for one in pairs[0]]
    return Ranking(task, names[0], names[1], policies, judged, reference, tuple(remarks))


def _name(one: Evaluation, others: Sequence[Evaluation]) -> str:
    """The policy's name, and its checkpoint if others have the same name."""
    name = str(one.settings["policy"])
    if [other.settings["policy"] for other in others].count(name) == 1:
        return name
    differing = [
        f"{key} {short(key, value)}"
        for key, value in one.settings.items()
        if any(other.settings.get(key) != value for other in others)
        and key not in ("policy", "seed", "protocol")
    ]
    return f"{name} ({', '.join(differing)})"


def published_ranking(task: str) -> Ranking | None:
    """SIMPLER against the real robot, for the policies that its authors played in both; None if
    there are fewer than two."""
    pairs = real_and_simulated(task)
    if len(pairs) < 2:
        return None
    pairs.sort(key=lambda pair: -pair[0].rate)
    return Ranking(
        *(task, TITLES["simpler"], REAL),
        policies=tuple(real.policy for real, _ in pairs),
        judged=tuple(_score(simulated) for _, simulated in pairs),
        reference=tuple(_score(real) for real, _ in pairs),
        remarks=("Sources: " + "; ".join(dict.fromkeys(o.source for p in pairs for o in p)) + ".",),
    )


def _score(one: Published) -> Score:
    assert one.episodes is not None
    return Score(one.rate * one.episodes, one.episodes)


def _text(score: Score) -> str:
    low, high = wilson_interval(round(score.successes), score.count)
    return f"{100 * score.rate:.1f} % of {score.count} [{100 * low:.0f}, {100 * high:.0f}]"
