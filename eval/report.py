"""Regenerate the pages and spreadsheets of evaluations.

    python eval/report.py runs/rt1                # every evaluation of a run; or several runs
    python eval/report.py runs/rt1/eval/tabletop-pick_coke_can-random-7c071507

eval/simpler.py writes them with each report. Regenerate them after an upgrade, or when another
checkpoint of the run has been evaluated since: the pages of all of its checkpoints then show both.

Each results folder gets report.html, report.csv and episodes.csv, and a summary of several tasks
summary.html and summary.csv. report.md and report.json stay as they are. The pages need no network
and can be sent to others; videos stay in the folder videos/.

An evaluation whose files have changed since its report is refused, since its page would show
numbers that nobody measured; eval/verify.py says what has changed.
"""

from dataclasses import dataclass
from pathlib import Path

from selfflow_robotics.cli.app import hydra_app
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.pages.rebuild import rebuild
from selfflow_robotics.evaluation.verifying.verify import find_results, is_unfinished


@dataclass(frozen=True)
class ReportConfig:
    folders: tuple[str, ...] = ()


@hydra_app("report", ReportConfig, positional="folders")
def main(config: ReportConfig) -> None:
    if not config.folders:
        raise UserError("which results? Pass a run or a results folder: eval/report.py FOLDER")
    found = dict.fromkeys(f for path in config.folders for f in find_results(Path(path)))
    folders = [folder for folder in found if not is_unfinished(folder)]
    if not folders:
        raise UserError(
            f"{next(iter(found))} has no report yet: repeat the evaluation's command to finish it"
        )
    for folder in folders:
        print(rebuild(folder))


if __name__ == "__main__":
    main()
