"""Write the page and spreadsheets of existing results anew."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.ledger import FINGERPRINT
from selfflow_robotics.evaluation.pages.write_results import write_page, write_summary_page
from selfflow_robotics.evaluation.published import Beside, beside_result
from selfflow_robotics.evaluation.report import Report
from selfflow_robotics.evaluation.summary import Summary
from selfflow_robotics.evaluation.verifying.checksums import (
    PAGES,
    REPORT_FILES,
    SPREADSHEETS,
    SUMMARY_FILES,
    Checksums,
    file_sha256,
)
from selfflow_robotics.evaluation.verifying.files import file_differences
from selfflow_robotics.evaluation.verifying.ledgers import read_ledgers
from selfflow_robotics.evaluation.verifying.recompute import json_differences, recomputed_report
from selfflow_robotics.evaluation.verifying.verify import as_json, is_summary, summary_reports
from selfflow_robotics.json_file import read_json


def rebuild(folder: Path) -> Path:
    """The new page of a results folder or summary; its checksums include it.

    Raises UserError if the results have changed since their report, or cannot be read or written.
    """
    try:
        sums = Checksums.read(folder)
        differences = (
            _rebuild_summary(folder, sums) if is_summary(folder) else _rebuild(folder, sums)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} cannot be read ({error}); see eval/verify.py {folder}") from None
    if differences:
        raise UserError(
            f"the results have changed since their report: {differences[0]}; see eval/verify.py "
            f"{folder}"
        )
    if sums:
        written = [name for name in (*SPREADSHEETS, *PAGES) if (folder / name).exists()]
        files = sums.files | {name: file_sha256(folder / name) or "" for name in written}
        Checksums(sums.ledgers, files).write(folder)
    return folder / next(name for name in PAGES if (folder / name).exists())


def _rebuild(folder: Path, sums: Checksums | None) -> list[str]:
    """What has changed; if nothing, the page is written."""
    written, settings = read_json(folder / "report.json"), read_json(folder / FINGERPRINT)
    ledger = read_ledgers([folder], folder, sums)
    is_shard = folder.name.startswith("shard_")
    report = recomputed_report(written, settings, ledger.records, is_shard)
    differences = [*ledger.differences, *json_differences(written, as_json(report))]
    if sums:
        differences += file_differences(folder, sums, [FINGERPRINT, *REPORT_FILES])
    if not differences:
        write_page(folder, replace(report, published=_published(report, settings).to_json()))
    return differences


def _published(report: Report, settings: dict[str, Any]) -> Beside:
    """The numbers that are known today."""
    origin = report.policy_provenance or {}
    return beside_result(
        get_task(report.task),
        settings["simulator"]["simulator"],
        settings["protocol"],
        len(report.episodes[report.policy]),
        origin.get("data"),
        is_evaluated=bool(origin) and not origin.get("privileged"),
        instruction=settings.get("instruction"),
        clock=settings.get("clock", "paused"),
    )


def _rebuild_summary(folder: Path, sums: Checksums | None) -> list[str]:
    written = read_json(folder / "summary.json")
    found = summary_reports(folder, written["tasks"], sums)
    differences = [one for one in found if isinstance(one, str)]
    if sums:
        differences += file_differences(folder, sums, SUMMARY_FILES)
    pairs = [one for one in found if not isinstance(one, str)]
    if differences or not pairs:
        return differences or ["expected tasks, found none"]
    summary = Summary(tuple(report for report, _ in pairs))
    differences = list(json_differences(written, as_json(summary)))
    if not differences:
        write_summary_page(folder, summary, [home for _, home in pairs])
    return differences
