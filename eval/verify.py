"""Verify an evaluation: compute its numbers again from the ledger and compare all checksums.

    python eval/verify.py runs/rt1                # every evaluation of a run; or several runs
    python eval/verify.py runs/rt1/eval/tabletop-pick_coke_can-random-7c071507
    python eval/verify.py copy/eval --checkpoint runs/rt1/checkpoints/step_0003000

For every results folder of eval/simpler.py it checks that

- evaluation.json has the settings that the results were measured with,
- each line of episodes.jsonl has its checksum; lines that a continued evaluation has added since
  must be new episodes of the same protocol,
- every number of report.md, report.json, the spreadsheets and the summaries follows from
  episodes.jsonl,
- the initial states differ, where the protocol promises it,
- the page, the videos, the checkpoint and every file of it have their checksums.

Each check is a line, and each difference one that names the file, what was expected and what was
found. Exit code: 0 if everything holds, 1 if something differs, 2 if there are no results or an
evaluation has not finished. Nothing is changed.

Checksums are in checksums.json, written with each report. Reports of earlier versions have none;
then only the numbers and the checkpoint are checked. Checksums find damage and edits of single
files; they cannot tell who wrote the files.
"""

from dataclasses import dataclass
from pathlib import Path

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.verifying.verify import find_results, is_unfinished, verify


@dataclass(frozen=True)
class VerifyConfig:
    folders: tuple[str, ...] = ()
    checkpoint: str | None = None


@hydra_app(
    "verify",
    VerifyConfig,
    flags=(Flag("--checkpoint", literal=True, help="where the evaluated checkpoint is now"),),
    positional="folders",
)
def main(config: VerifyConfig) -> int:
    if not config.folders:
        raise UserError("which results? Pass a run or a results folder: eval/verify.py FOLDER")
    found = [folder for path in config.folders for folder in find_results(Path(path))]
    folders = list(dict.fromkeys(found))
    unfinished = [folder for folder in folders if is_unfinished(folder)]
    if unfinished == folders:
        raise UserError(
            f"{folders[0]} has no report yet: repeat the evaluation's command to finish it"
        )
    checkpoint = Path(config.checkpoint) if config.checkpoint else None
    num_checks, differing = 0, []
    for folder in folders:
        if folder in unfinished:
            print(f"{folder}: not finished, so there is no report to verify")
            continue
        print(folder)
        for check in verify(folder, checkpoint):
            num_checks += 1
            print(f"  {'differs' if check.differences else 'ok':<8} {check.what}")
            for difference in check.differences:
                print(f"           {difference}")
                differing.append(folder)
    print(verdict(num_checks, len(folders) - len(unfinished), differing, len(unfinished)))
    return 1 if differing else 2 if unfinished else 0


def verdict(num_checks: int, num_folders: int, differing: list[Path], num_unfinished: int) -> str:
    """The last line; `differing` has the folder of each difference."""
    among = f"{num_folders} results folder{'s' if num_folders > 1 else ''}"
    if differing:
        where = ", ".join(dict.fromkeys(folder.name for folder in differing))
        line = f"DIFFERS: {len(differing)} differences in {among}: {where}"
    else:
        line = f"VERIFIED: all {num_checks} checks of {among} hold"
    return line + (f"; {num_unfinished} not finished" if num_unfinished else "")


if __name__ == "__main__":
    main()
