"""Judge a simulator by how it ranks policies: MMRV and Pearson's correlation, as in SIMPLER.

    python eval/correlate.py                      # SIMPLER against the real robot, as published
    python eval/correlate.py runs                 # the tabletop against SIMPLER
    python eval/correlate.py runs/a/eval runs/b/eval judged=tabletop reference=simpler
    python eval/correlate.py runs output=correlation.json

Evaluate the same policies in both simulators first (eval/simpler.py with sim=tabletop and with
sim=simpler). The arguments are folders with their results. Policies are paired if all their
settings are the same; each task that at least two policies played in both gets a table.

The mean maximum rank violation (MMRV) is 0 if both simulators order the policies alike. Where they
do not, it grows with how much the policies differ in the reference. Pearson's correlation is 1 if
success rates in one simulator are a linear function of those in the other. Intervals are 95 %
bootstrap intervals over episodes, for these policies.

Few or equally good policies say little: take six or more, from bad to good. Without a network of
your own, benchmarks/degraded_experts.py has some. For comparison, the command also prints what
SIMPLER's authors published for their policies in SIMPLER and on the real robot.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from selfflow_robotics.cli.app import hydra_app
from selfflow_robotics.envs.tasks.catalog import GROUPS
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.comparing.ranking import (
    Ranking,
    find_rankings,
    published_ranking,
    sentence,
)
from selfflow_robotics.evaluation.ledger import SuccessRule
from selfflow_robotics.evaluation.results import write_report, writing


@dataclass(frozen=True)
class CorrelateConfig:
    folders: tuple[str, ...] = ()
    judged: str = "tabletop"
    reference: str = "simpler"
    protocol: str | None = None
    success: SuccessRule = "last_step"
    output: str | None = None

    def __post_init__(self) -> None:
        if self.judged == self.reference:
            raise UserError(f"judged and reference are both {self.judged}; choose two simulators")


@hydra_app("correlate", CorrelateConfig, positional="folders")
def main(config: CorrelateConfig) -> None:
    measured: list[Ranking] = []
    if config.folders:
        measured = find_rankings(
            *(config.folders, config.judged, config.reference, config.success), config.protocol
        )
    tasks = [one.task for one in measured] or GROUPS["all"]
    published = [one for task in tasks if (one := published_ranking(task))]
    if config.output == "-":
        print(json.dumps(result_of(measured, published), indent=1))
        return
    blocks = [one.to_text() for one in (measured or published)]
    if measured:
        blocks += [
            f"For comparison, {one.task} in {one.judged_name} against {one.reference_name}, "
            f"{len(one.policies)} published policies:\n{sentence(one.agreement())}"
            for one in published
        ]
    print("\n\n".join(blocks))
    if config.output:
        path = Path(config.output)
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_report(path, result_of(measured, published))
        print(f"\nwritten to {path}")


def result_of(measured: list[Ranking], published: list[Ranking]) -> dict:
    """Everything, JSON-able."""
    return {
        "measured": [one.to_json() for one in measured],
        "published": [one.to_json() for one in published],
    }


if __name__ == "__main__":
    main()
