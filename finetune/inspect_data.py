"""Inspect robot data before training on it: what it contains, and what is wrong with it.

    python finetune/inspect_data.py .../fractal20220817_data/0.1.0
    python finetune/inspect_data.py DATA --split 'train[:1000]'    # a first look at large data
    python finetune/inspect_data.py DATA frames=all                # decode every image
    python finetune/inspect_data.py DATA verify=true && echo intact

DATA is the version folder of an RLDS data set with the features of RT-1's fractal20220817_data or
of BridgeData V2's bridge_dataset, or the folder of a LeRobot data set with their actions. The
report is printed and written to inspections/NAME (NAME-2, ... for more data sets of that name):
page.html, a single self-contained file with charts and pictures, and report.json. It shows
instructions, episode lengths, outcomes and action statistics, and warns about

* records that are damaged or lack a feature, missing shards, and images that cannot be decoded;
* actions far outside the range of the others, and arms that stand still for long;
* a gripper that moves against its commands, or without any, and a tool that moves against them;
* episodes recorded twice, and images that do not change.

Training refuses a data set with damaged records, and reads all the rest: drop episodes with the
settings instruction, min_length, max_length and successes_only of finetune/rt1.py.

verify=true checks the checksum of every record and decodes every image. It prints a line per
damaged record and exits with 1 if there is any; a report alone exits with 0. Episodes that training
leaves out (numbers that are not finite, ...) are counted by cause, but are not damage.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import chain, count, groupby
from pathlib import Path

from tqdm import tqdm

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.data.rlds.survey import Fault, Frames, Survey
from selfflow_robotics.data.robot_data import survey_robot_data
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.pages.data_page import page_html
from selfflow_robotics.evaluation.pages.data_report import counted, data_report, report_text
from selfflow_robotics.evaluation.pages.template import save
from selfflow_robotics.evaluation.results import write_report, writing


@dataclass(frozen=True)
class InspectConfig:
    data: tuple[str, ...] = ()
    split: str = "train"
    frames: Frames = "sample"
    verify: bool = False
    pictures: int = 12
    output: str = "inspections"

    def __post_init__(self) -> None:
        check_least(self, 0, "pictures")


@hydra_app(
    "inspect_data",
    InspectConfig,
    flags=(Flag("--split", literal=True, help="train, val, train[:1000], train+val, ..."),),
    positional="data",
)
def main(config: InspectConfig) -> int:
    if not config.data:
        raise UserError(
            "name a data set: the folder <name>/<version> that has dataset_info.json, or a LeRobot "
            "data set, which has meta/info.json"
        )
    if config.verify:
        return max(verify(directory, config.split) for directory in config.data)
    taken: set[str] = set()
    for directory in config.data:
        found = survey_robot_data(directory, config.split, config.frames)
        inspect(found, config, free_name(found.info.name, taken))
    return 0


def free_name(name: str, taken: set[str]) -> str:
    """The name itself, or with -2, -3, ...: the first one that is not taken. It is now."""
    numbered = (f"{name}-{number}" for number in count(2))
    chosen = next(one for one in chain([name], numbered) if one not in taken)
    taken.add(chosen)
    return chosen


def inspect(found: Survey, config: InspectConfig, name: str) -> None:
    """Print the report and write it as a page and as JSON, into the folder `name`."""
    report = data_report(found)
    print(report_text(report))
    folder = Path(config.output) / name
    save(folder / "page.html", page_html(found, report, config.pictures))
    with writing(folder):
        write_report(folder / "report.json", report)
    print(f"\nwritten to {folder / 'page.html'} and report.json")


def verify(directory: str, split: str) -> int:
    """Print a line per damaged record as it is found. Returns 1 if there is any, else 0."""
    damaged = 0

    def tell(faults: list[Fault]) -> None:
        nonlocal damaged
        for _, group in groupby(faults, lambda fault: (fault.shard, fault.record)):
            first, *others = group
            if first.kind == "episode":  # left out by training, but not damaged
                continue
            damaged += 1
            tqdm.write(first.message + (f" (and {len(others)} more images)" if others else ""))

    found = survey_robot_data(directory, split, "all", tell)
    result = f"{damaged} damaged" if damaged else "all intact"
    if left_out := Counter(fault.cause for fault in found.faults if fault.kind == "episode"):
        causes = ", ".join(f"{count} {cause}" for cause, count in left_out.items())
        result += f"; training leaves out {counted(left_out.total(), 'episode')}: {causes}"
    print(f"{directory}: {found.num_records} records, {found.frames_decoded} images: {result}")
    return 1 if damaged else 0


if __name__ == "__main__":
    main()
