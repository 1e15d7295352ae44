"""Compare policies on the same episodes: which is better, or how many more episodes it takes.

    python eval/compare.py RUN_A RUN_B                  # all tasks that both have played
    python eval/compare.py RUN_A RUN_B RUN_C            # each with each
    python eval/compare.py runs/a/eval/FOLDER runs/b/eval/FOLDER        # one task
    python eval/compare.py runs/a@replan_steps:3 runs/a@replan_steps:6  # two settings of a run
    python eval/compare.py RUN_A RUN_B success=any_step output=comparison.json
    python eval/compare.py plan=10                      # how many episodes for 10 points?

Each argument is a results folder of eval/simpler.py (with episodes.jsonl), a folder of several, or
a run, whose results are in RUN/eval. Where a run has several results of a task, choose with
@SETTING:VALUE, or @SETTING:VALUE,SETTING:VALUE. Settings are those in evaluation.json, such as
checkpoint (its first digits), replan_steps, seed, protocol and task.

Only episodes that both policies played are compared: the same task, simulator, protocol, variant
and seed, from the same initial state. So evaluate both with the same seed= and protocol=. The table
has a row per task: both success rates and the difference with 95 % intervals (Wilson, Tango),
McNemar's exact p-value, and the same adjusted by Holm's method over all rows, which the verdict
below the table uses. With several rows, a difference in any of them is claimed wrongly in at most
5 % of comparisons.

If the verdict is "not enough episodes", play that many more of both (num_episodes=; grids have an
end, protocol=random has not) and compare again. The p-value is for looking once. If you look again
and again, go by the e-value: if the policies are equally good, it ever reaches 20 with a
probability of at most 5 %.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from selfflow_robotics.cli.app import hydra_app
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.comparing.comparison import Goal, compare
from selfflow_robotics.evaluation.comparing.power import PlanRow, plan
from selfflow_robotics.evaluation.ledger import SuccessRule
from selfflow_robotics.evaluation.results import write_report, writing
from selfflow_robotics.evaluation.tables import text_table

MOST_RUNS = 10


@dataclass(frozen=True)
class CompareConfig:
    runs: tuple[str, ...] = ()
    success: SuccessRule = "last_step"
    difference: float = 10.0
    power: float = 0.8
    plan: float | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        for name in ("difference", "plan"):
            points = getattr(self, name)
            if points is not None and not 1 <= points <= 90:
                raise UserError(f"{name} must be from 1 to 90 points, got {points:g}")
        if not 0.5 <= self.power <= 0.99:
            raise UserError(f"power must be from 0.5 to 0.99, got {self.power:g}")
        if self.plan is not None and self.runs:
            raise UserError("plan= needs no results; leave it out, or the folders")


@hydra_app("compare", CompareConfig, positional="runs")
def main(config: CompareConfig) -> int:
    troubles: tuple[str, ...] = ()
    if config.plan is not None:
        rows = plan(config.plan / 100, config.power)
        text, result = plan_text(rows, config), {"plan": [asdict(row) for row in rows]}
    elif not 2 <= len(config.runs) <= MOST_RUNS:
        raise UserError(
            f"name 2 to {MOST_RUNS} results to compare, got {len(config.runs)}: RUN_A RUN_B; or "
            "plan=10 for the number of episodes that a difference of 10 points takes"
        )
    else:
        goal = Goal(config.difference / 100, config.power)
        comparison = compare(config.runs, config.success, goal)
        text, result = comparison.to_text(), comparison.to_json()
        troubles = comparison.troubles
    if config.output == "-":
        print(json.dumps(result, indent=1))
    else:
        print(text)
    if config.output not in (None, "-"):
        path = Path(config.output)
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_report(path, result)
        print(f"\nwritten to {path}")
    print(*troubles, sep="\n", end="\n" if troubles else "", file=sys.stderr)
    return 1 if troubles else 0


def plan_text(rows: list[PlanRow], config: CompareConfig) -> str:
    """The planner's table, with an explanation."""
    correlations = list(rows[0].paired)
    lines = [["success rates", "different episodes"]]
    lines[0] += [f"same, correlation {correlation:g}" for correlation in correlations]
    for row in rows:
        rates = f"{100 * row.first:.0f} % and {100 * row.second:.0f} %"
        counts = [row.unpaired, *(row.paired[correlation] for correlation in correlations)]
        lines.append([rates, *map(str, counts)])
    return (
        f"Episodes of each policy to find a difference of {config.plan:g} points with power "
        f"{config.power:g} at 5 %:\n\n{text_table(lines)}\n\n"
        "Different episodes: test of two proportions; the same: McNemar's exact test. The more\n"
        "the outcomes on the same episodes correlate, the fewer it takes. Compare two results to\n"
        "learn how many more they take."
    )


if __name__ == "__main__":
    main()
