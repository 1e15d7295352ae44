"""Verify the results of `eval/simpler.py`: numbers, checksums and checkpoint.

A results folder verifies if its settings, ledger, videos and checkpoint have the recorded checksums
(`checksums`), and if every number of its report is what the ledger gives (`recompute`). A ledger
that has grown since its report still verifies. Nothing is written or changed.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.csv_files import episodes_csv, rates_csv, summary_csv
from selfflow_robotics.evaluation.ledger import EPISODES, FINGERPRINT, EpisodeRecord
from selfflow_robotics.evaluation.protocol import DRAWN
from selfflow_robotics.evaluation.report import Report
from selfflow_robotics.evaluation.results import IN_TRAINING, folder_name
from selfflow_robotics.evaluation.summary import Summary
from selfflow_robotics.evaluation.verifying.checksums import (
    CHECKSUMS,
    PAGES,
    REPORT_FILES,
    SPREADSHEETS,
    SUMMARY_FILES,
    Checksums,
)
from selfflow_robotics.evaluation.verifying.files import (
    checkpoint_differences,
    file_differences,
    find_evaluated,
    missing_files,
)
from selfflow_robotics.evaluation.verifying.ledgers import later_differences, read_ledgers
from selfflow_robotics.evaluation.verifying.recompute import (
    csv_differences,
    json_differences,
    page_differences,
    recomputed_report,
)
from selfflow_robotics.json_file import read_json, read_text

# What an edited file may raise where it is read as if the evaluation had written it.
_UNFIT = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, UserError)


@dataclass(frozen=True)
class Check:
    """One line: `what` was checked, and how it differs from what was recorded."""

    what: str
    differences: tuple[str, ...] = ()


def find_results(path: Path) -> list[Path]:
    """The folders with results of evaluations or summaries at or below `path`, sorted.

    Raises UserError if there are none.
    """
    if not path.is_dir():
        raise UserError(f"no folder at {path}; pass a run or a results folder of eval/simpler.py")
    marks = (FINGERPRINT, EPISODES, CHECKSUMS, *SUMMARY_FILES)
    folders = {file.parent for mark in marks for file in path.rglob(mark)}
    if not folders:
        raise UserError(
            f"{path} has no results of eval/simpler.py; pass a run or one of its eval/ folders"
        )
    return sorted(folders)


def is_summary(folder: Path) -> bool:
    """Whether the folder has a summary of several tasks, not the results of one."""
    return any((folder / name).exists() for name in SUMMARY_FILES)


def is_unfinished(folder: Path) -> bool:
    """Whether the evaluation in this folder has not written a report yet."""
    written = (*REPORT_FILES, *SUMMARY_FILES, CHECKSUMS)
    return not any((folder / name).exists() for name in written)


def verify(folder: Path, checkpoint: Path | None = None) -> list[Check]:
    """The checks of one results folder or summary.

    Args:
        checkpoint: where the evaluated checkpoint is; None: in the run that the folder is in, or
            else where the report says.
    """
    if is_summary(folder):
        return list(_summary_checks(folder))
    return list(_results_checks(folder, checkpoint))


def _results_checks(folder: Path, checkpoint: Path | None) -> Iterator[Check]:
    sums, problem = _checksums(folder)
    written, unread = _json(folder / "report.json")
    settings, unknown = _json(folder / FINGERPRINT)
    # Reports say num_episodes since there are checksums.
    yield from _about_checksums(folder, sums, problem, "num_episodes" in written)
    yield Check(
        f"{FINGERPRINT}: settings", (*unknown, *_settings_differences(folder, settings, sums))
    )
    ledger = read_ledgers([folder], folder, sums)
    gone = missing_files(folder, sums.ledgers if sums else ())
    later = later_differences(settings, ledger)
    yield Check(ledger.text(), (*gone, *ledger.differences, *later))
    if sums:
        yield from _file_checks(folder, sums, REPORT_FILES)
    what = "report.json: numbers follow from the ledger"
    try:
        is_shard = folder.name.startswith("shard_")
        report = recomputed_report(written, settings, ledger.records, is_shard)
        computed, page = as_json(report), report.to_markdown()
    except _UNFIT as error:
        differs = f"{folder / 'report.json'}: cannot be computed from the ledger ({error})"
        yield Check(what, (*(unread or (differs,)),))
    else:
        yield Check(what, _in(folder / "report.json", json_differences(written, computed)))
        yield _page_check(folder / "report.md", page)
        yield from _csv_checks(
            folder, {"report.csv": rates_csv, "episodes.csv": episodes_csv}, report
        )
        yield _states_check(folder, report)
    yield from _video_checks(folder, sums, ledger.records, ledger.later)
    if expected := settings.get("checkpoint"):
        origin = written.get("policy_provenance")
        recorded = origin.get("checkpoint") if isinstance(origin, dict) else None
        path = checkpoint or find_evaluated(folder, str(recorded) if recorded else None)
        if folder.parent.name == IN_TRAINING and not path.exists():
            yield Check(f"checkpoint {path.name}: its run has not kept it")
            return
        yield Check(
            f"checkpoint {path.name}: SHA-256 and files",
            tuple(checkpoint_differences(path, str(expected))),
        )


def _summary_checks(folder: Path) -> Iterator[Check]:
    sums, problem = _checksums(folder)
    written, unread = _json(folder / "summary.json")
    tasks = written.get("tasks")
    tasks = tasks if isinstance(tasks, dict) else {}
    yield from _about_checksums(folder, sums, problem, "num_episodes" in str(tasks))
    if sums:
        yield from _file_checks(folder, sums, SUMMARY_FILES)
        named = _folders_of_ledgers(folder, sums)
        ledger = read_ledgers(sorted(named), folder, sums)
        gone = missing_files(folder, sums.ledgers)
        yield Check(ledger.text(), (*gone, *ledger.differences))
    what, path = "summary.json: numbers follow from the ledgers", folder / "summary.json"
    found = summary_reports(folder, tasks, sums)
    reports = tuple(one[0] for one in found if not isinstance(one, str))
    if unread or not reports or len(reports) < len(found):
        lacking = [one for one in found if isinstance(one, str)]
        yield Check(what, unread or _in(path, lacking or ["expected tasks, found none"]))
        return
    summary = Summary(reports)
    yield Check(what, _in(path, json_differences(written, as_json(summary))))
    yield _page_check(folder / "summary.md", summary.to_markdown())
    yield from _csv_checks(folder, {"summary.csv": summary_csv}, summary)


def summary_reports(
    folder: Path, tasks: dict[str, Any], sums: Checksums | None
) -> list[tuple[Report, Path] | str]:
    """The recomputed report and the folder of each of a summary's `tasks`, or how it differs."""
    homes = [path.parent for path in sorted(folder.parent.glob(f"*/{FINGERPRINT}"))]
    if sums:
        named = _folders_of_ledgers(folder, sums)
        # Where there are shards, the whole evaluation is their parent folder.
        homes = sorted(
            home
            for home in named | {h.parent for h in named}
            if any((home / name).exists() for name in REPORT_FILES)
        )
    return [_report_of(name, report, homes, folder, sums) for name, report in tasks.items()]


def _folders_of_ledgers(folder: Path, sums: Checksums) -> set[Path]:
    return {(folder / name).resolve().parent for name in sums.ledgers}


def _report_of(
    name: str, written: Any, homes: list[Path], base: Path, sums: Checksums | None
) -> tuple[Report, Path] | str:
    """The recomputed report of one task of a summary and its folder, or how it differs from the
    closest one."""
    closest: list[str] = []
    for home in homes:
        try:
            settings, _ = _json(home / FINGERPRINT)
            ledger = read_ledgers([home], base, sums)
            if not ledger.records or ledger.records[0].task != name:
                continue
            is_shard = home.name.startswith("shard_")
            report = recomputed_report(written, settings, ledger.records, is_shard)
            differences = list(json_differences(written, as_json(report)))
        except _UNFIT as error:
            differences = [str(error)]
        else:
            if not differences:
                return report, home
        if not closest or len(differences) < len(closest):
            closest = differences
    return f"tasks.{name}: {closest[0] if closest else 'expected a results folder, found none'}"


def _video_checks(
    folder: Path,
    sums: Checksums | None,
    records: list[EpisodeRecord],
    later: list[EpisodeRecord],
) -> Iterator[Check]:
    """The videos of the ledger and of the checksums; those of later lines only have to be there."""
    named = {record.video for record in records if record.video}
    new = {record.video for record in later if record.video} - named
    if sums is None:
        if named:
            what = f"{len(named)} videos are there"
            yield Check(what, tuple(missing_files(folder, sorted(named))))
        return
    named |= set(sums.files) - {FINGERPRINT, *REPORT_FILES, *SPREADSHEETS, *PAGES}
    if named | new:
        yield Check(
            f"{len(named)} videos: SHA-256",
            (
                *file_differences(folder, sums, sorted(named)),
                *missing_files(folder, sorted(new - named)),
            ),
        )


def _file_checks(folder: Path, sums: Checksums, report: tuple[str, ...]) -> Iterator[Check]:
    """The files of a report, then the spreadsheets and the page that were written with it."""
    for names in (report, [name for name in (*SPREADSHEETS, *PAGES) if name in sums.files]):
        if names:
            found = tuple(file_differences(folder, sums, names))
            yield Check(f"{', '.join(names)}: SHA-256", found)


def _csv_checks(folder: Path, files: dict[str, Any], result: Report | Summary) -> Iterator[Check]:
    """The rows of each spreadsheet that is there, computed again."""
    for name, compute in files.items():
        if (folder / name).exists():
            try:
                differences = tuple(csv_differences(folder / name, compute(result)))
            except _UNFIT as error:
                differences = (f"cannot be computed from the ledger ({error})",)
            what = f"{name}: numbers follow from the ledger"
            yield Check(what, _in(folder / name, differences))


def _states_check(folder: Path, report: Report) -> Check:
    """A protocol that promises different initial states has them."""
    states = report.initial_states()
    promised = report.protocol not in DRAWN
    if not states.count:
        return Check("initial states: not in the ledger of an earlier version")
    where = f"{folder / EPISODES}: expected {states.count} different initial states"
    differs = (f"{where}, found {states.different}",) if promised and states.repeated else ()
    return Check(states.text(), differs)


def _page_check(path: Path, computed: str) -> Check:
    what = f"{path.name}: numbers follow from the ledger"
    try:
        return Check(what, _in(path, page_differences(read_text(path), computed)))
    except (OSError, ValueError) as error:
        return Check(what, (f"{path}: expected a page, found none ({error})",))


def _settings_differences(
    folder: Path, settings: dict[str, Any], sums: Checksums | None
) -> Iterator[str]:
    """evaluation.json against its checksum, and its folder's name unless output= chose that."""
    if sums:
        yield from file_differences(folder, sums, [FINGERPRINT])
    kind = re.fullmatch(
        rf"(.+-{re.escape(str(settings.get('protocol')))})-[0-9a-f]{{8}}", folder.name
    )
    if kind and (name := folder_name(kind[1], settings)) != folder.name:
        yield f"{folder / FINGERPRINT}: expected settings of {folder.name}, found those of {name}"


def _about_checksums(
    folder: Path, sums: Checksums | None, problem: str | None, is_new: bool
) -> Iterator[Check]:
    """Nothing if there are checksums; else whether there should be."""
    path = folder / CHECKSUMS
    if problem:
        yield Check(f"{CHECKSUMS}: is whole", (f"{path}: expected checksums, found {problem}",))
    elif sums is None and is_new:
        yield Check(f"{CHECKSUMS}: is there", (f"{path}: expected a file, found none",))
    elif sums is None:
        yield Check(f"no {CHECKSUMS} (an earlier version's report): only numbers are checked")


def _checksums(folder: Path) -> tuple[Checksums | None, str | None]:
    """The checksums of a folder if it has any, and what is wrong with them if they are damaged."""
    try:
        return Checksums.read(folder), None
    except ValueError as error:
        return None, f"damage ({error})"


def _json(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The object in a JSON file, and what is wrong with the file, if anything."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}, (f"{path}: expected a file, found none",)
    except (OSError, ValueError) as error:
        return {}, (f"{path}: expected JSON, found damage ({error})",)
    if isinstance(content, dict):
        return content, ()
    return {}, (f"{path}: expected an object, found {type(content).__name__}",)


def as_json(result: Report | Summary) -> dict[str, Any]:
    """Its JSON as it is read from a file: lists instead of tuples, text as keys."""
    return json.loads(json.dumps(result.to_json()))


def _in(path: Path, differences: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{path}: {difference}" for difference in differences)
