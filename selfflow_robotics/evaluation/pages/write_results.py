"""Write everything about the results in a folder: report, spreadsheets, page and checksums."""

from collections.abc import Sequence
from pathlib import Path

from selfflow_robotics.evaluation.csv_files import episodes_csv, rates_csv, summary_csv
from selfflow_robotics.evaluation.ledger import FINGERPRINT, EpisodeRecord
from selfflow_robotics.evaluation.pages.results_page import page_html
from selfflow_robotics.evaluation.pages.summary_page import summary_html
from selfflow_robotics.evaluation.report import Report
from selfflow_robotics.evaluation.results import write_whole, writing
from selfflow_robotics.evaluation.summary import Summary
from selfflow_robotics.evaluation.verifying.checksums import (
    REPORT_FILES,
    SUMMARY_FILES,
    write_checksums,
)


def write_results(folder: Path, report: Report, records: Sequence[EpisodeRecord]) -> None:
    """report.md, .json, .csv and .html, episodes.csv and checksums.json.

    `records` are all lines of the ledger, whose films get checksums. Raises UserError if a file
    cannot be written.
    """
    report.write(folder)
    write_page(folder, report)
    videos = [record.video for record in records if record.video]
    write_checksums(folder, [folder], [FINGERPRINT, *REPORT_FILES, *videos])


def write_summary(folder: Path, summary: Summary, results: Sequence[Path]) -> None:
    """summary.md, .json, .csv and .html, and checksums.json; `results` are the tasks' folders.

    Raises UserError if a file cannot be written.
    """
    summary.write(folder)
    write_summary_page(folder, summary, results)
    write_checksums(folder, results, SUMMARY_FILES)


def write_page(folder: Path, report: Report) -> None:
    """report.html, report.csv and episodes.csv. Raises UserError if one cannot be written."""
    with writing(folder):
        write_whole(folder / "report.csv", rates_csv(report))
        write_whole(folder / "episodes.csv", episodes_csv(report))
        write_whole(folder / "report.html", page_html(report, folder))


def write_summary_page(folder: Path, summary: Summary, results: Sequence[Path]) -> None:
    """summary.html and summary.csv. Raises UserError if one cannot be written."""
    with writing(folder):
        write_whole(folder / "summary.csv", summary_csv(summary))
        write_whole(folder / "summary.html", summary_html(summary, folder, results))
