"""Published success rates, and which of them may stand beside a result.

`published.json` has one entry per policy, protocol and source:

- `values`: success rate in percent by column. A column is a task, one orientation of the can, the
  `drawer` (mean of opening and closing), or a mean of tasks: `4 columns`, `3 columns`, `6 cells` or
  `WidowX`, as in `summary.AVERAGES`.
- `success`: when an episode counts as a success (`ledger.SuccessRule`); null if that is not stated.
- `episodes`: "protocol" (each episode of the protocol once, see `protocols`), a number per task, or
  null if it is not stated.
- `trained_on`: "real" (data of the real robot), "simulation", or null if it is not stated.
- `corrections`: what is known to be wrong with the number as printed or measured, and who says so.
  An entry whose `initial states` or `column` need a correction never stands beside a result.

A published number stands beside a result only if both have the same task, protocol, rule of
success and episodes, and policies that were trained on the same kind of data. Otherwise it is left
out, with the reason. One checkpoint's numbers differ by tens of points between conventions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.evaluation.domain import TITLES, is_real
from selfflow_robotics.evaluation.ledger import SuccessRule
from selfflow_robotics.evaluation.protocol import DRAWN, Protocol, evaluation_episodes
from selfflow_robotics.json_file import read_json

FILE = Path(__file__).with_suffix(".json")
REAL_ROBOT = "real_robot"  # the protocol of the trials that SIMPLER is compared with
# SIMPLER files the results of both versions under one name.
_COLUMN = {"move_near_v0": "move_near"}
_DISQUALIFYING = ("initial states", "column")

TrainedOn = Literal["real", "simulation"]


@dataclass(frozen=True)
class Published:
    """One published success rate."""

    policy: str
    robot: str
    protocol: str
    column: str
    rate: float  # 0 to 1
    success: SuccessRule | None
    episodes: int | None  # None: not stated
    trained_on: TrainedOn | None
    source: str
    corrections: tuple[dict[str, str], ...] = ()
    remark: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What a report says about it."""
        return {
            "policy": self.policy,
            "column": self.column,
            "protocol": self.protocol,
            "success": self.success,
            "episodes": self.episodes,
            "rate": self.rate,
            "source": self.source,
        }


@dataclass(frozen=True)
class Measured:
    """What a published number has to have in common with a result."""

    column: str
    protocol: str
    episodes: int
    whole: int | None  # episodes of the whole protocol; None: it has no fixed number
    trained_on: TrainedOn | None  # None: unknown, as for a policy server


@dataclass(frozen=True)
class Beside:
    """The published numbers for a result."""

    shown: tuple[Published, ...] = ()
    left_out: tuple[tuple[Published, str], ...] = ()  # with the reason
    refused: str | None = None  # why none of them can stand beside it

    def lines(self) -> list[str]:
        """As remarks under a table: the numbers, and whose were left out."""
        lines = []
        for rule, words in RULE_WORDS.items():
            own = [one for one in self.shown if one.success == rule]
            if not own:
                continue
            listed = ", ".join(f"{one.policy} {100 * one.rate:.1f} %" for one in own)
            sources = "; ".join(dict.fromkeys(one.source for one in own))
            lines.append(
                f"Published for {own[0].protocol.replace('_', ' ')}, success "
                f"{words}: {listed} ({sources})."
            )
        if self.left_out:
            reasons: dict[str, list[str]] = {}
            for one, reason in self.left_out:
                reasons.setdefault(reason, []).append(one.policy)
            listed = "; ".join(
                f"{reason}: {', '.join(dict.fromkeys(names))}" for reason, names in reasons.items()
            )
            lines.append(f"Published numbers left out, since {listed}.")
        return lines

    def to_json(self) -> dict[str, Any]:
        """All of it; of the numbers left out, who and why."""
        return {
            "shown": [one.to_json() for one in self.shown],
            "left_out": [
                {"policy": one.policy, "source": one.source, "reason": reason}
                for one, reason in self.left_out
            ],
            "refused": self.refused,
        }


RULE_WORDS: dict[SuccessRule, str] = {
    "last_step": "at the last step",
    "any_step": "at any step",
    "early_stop": "when it is first reached, which ends the episode",
}


@lru_cache
def published(path: Path = FILE) -> tuple[Published, ...]:
    """Every number of the file, in its order."""
    content = read_json(path)
    sizes, sources = content["protocols"], content["sources"]
    return tuple(
        Published(
            policy=entry["policy"],
            robot=entry["robot"],
            protocol=entry["protocol"],
            column=column,
            rate=round(value / 100, 4),
            success=entry["success"],
            episodes=_episodes(entry["episodes"], sizes.get(entry["protocol"], {}), column),
            trained_on=entry["trained_on"],
            source=sources[entry["source"]],
            corrections=tuple(entry.get("corrections", ())),
            remark=entry.get("remark"),
        )
        for entry in content["results"]
        for column, value in entry["values"].items()
    )


def _episodes(stated: str | int | None, sizes: dict[str, int], column: str) -> int | None:
    """The episodes of one column; None for a mean of tasks of the protocol's sizes."""
    return sizes.get(column) if isinstance(stated, str) else stated


def beside_result(
    task: Task,
    simulator: str,
    protocol: Protocol,
    num_episodes: int,
    data: dict[str, Any] | None,
    is_evaluated: bool = True,
    instruction: str | None = None,
    clock: str = "paused",
) -> Beside:
    """The published numbers for an evaluation of one task.

    Args:
        data: provenance of the policy's training data; None: unknown.
        is_evaluated: False for random actions, and for experts, which read the simulator's state.
        instruction: what the policy was told instead of the task's instruction, if anything.
        clock: the simulator's; "real" does not wait for the policy.
    """
    if simulator != "simpler":
        name = TITLES.get(simulator, simulator)
        return Beside(refused=f"the published numbers are of SIMPLER, this is {name}")
    if not is_evaluated:
        return Beside(
            refused="random actions and policies that read the simulator's state are not "
            "what was published"
        )
    if instruction is not None:
        return Beside(refused="the policy's instruction was not the task's")
    if clock != "paused":
        return Beside(refused="the published numbers are of a clock that waits for the policy")
    whole = None
    if protocol not in DRAWN:
        whole = len(evaluation_episodes(task, simulator, protocol, None, 0))
    trained_on: TrainedOn | None = None
    if data is not None and (is_real(data) or "simulator" in data):
        trained_on = "real" if is_real(data) else "simulation"
    return beside(Measured(task.name, protocol, num_episodes, whole, trained_on))


def beside(result: Measured, known: Iterable[Published] | None = None) -> Beside:
    """The published numbers of the same convention, best first, and why the others are left out.

    Numbers of other protocols than the result's are not mentioned one by one.
    """
    column = _COLUMN.get(result.column, result.column)
    about = [
        one
        for one in (published() if known is None else known)
        if one.column == column and one.protocol != REAL_ROBOT
    ]
    if not about:
        return Beside(refused="no published numbers of this task are known")
    same = [one for one in about if one.protocol == result.protocol]
    if not same:
        protocols = ", ".join(dict.fromkeys(one.protocol for one in about))
        return Beside(
            refused=f"the published numbers are of protocol {protocols}, this is {result.protocol}"
        )
    if result.whole is None or result.episodes != result.whole:
        return Beside(
            refused=f"the published numbers are of the whole protocol ({result.whole} episodes), "
            f"this is {result.episodes} episodes"
        )
    reasons = [(one, _reason(one, result)) for one in same]
    shown = sorted((one for one, why in reasons if not why), key=lambda one: -one.rate)
    return Beside(tuple(shown), tuple((one, why) for one, why in reasons if why))


def _reason(one: Published, result: Measured) -> str | None:
    """Why a number of the same task and protocol is of another convention; None if it is not."""
    for correction in one.corrections:
        if correction["kind"] in _DISQUALIFYING:
            return f"{correction['what']} ({correction['source']})"
    if one.success is None:
        return "their rule of success is not stated"
    if one.episodes is None:
        return "their number of episodes is not stated"
    if result.whole and one.episodes % result.whole:
        return f"they played {one.episodes} episodes, not {result.whole}"
    if result.trained_on and one.trained_on != result.trained_on:
        return f"they were trained on {_data(one.trained_on)}, this policy on " + _data(
            result.trained_on
        )
    return None


def _data(kind: TrainedOn | None) -> str:
    names = {"real": "data of the real robot", "simulation": "data of the simulator"}
    return names[kind] if kind else "unknown data"


def real_and_simulated(
    column: str, robot: str = "google_robot"
) -> list[tuple[Published, Published]]:
    """(on the real robot, in SIMPLER's visual matching) of the policies that SIMPLER's authors
    played in both, for `mmrv` and `pearson`."""
    own = [one for one in published() if one.column == column and one.robot == robot]
    real = {one.policy: one for one in own if one.protocol == REAL_ROBOT}
    simulated = {
        one.policy: one
        for one in own
        if one.protocol == "visual_matching" and one.success == "last_step"
    }
    return [(real[policy], simulated[policy]) for policy in real if policy in simulated]
