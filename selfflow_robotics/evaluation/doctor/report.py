"""An examination as text and JSON."""

import math
from dataclasses import asdict
from typing import Any

from selfflow_robotics.evaluation.doctor.diagnosis import Finding, Measured
from selfflow_robotics.evaluation.doctor.examine import Examination
from selfflow_robotics.evaluation.tables import text_table


def examination_json(examination: Examination) -> dict[str, Any]:
    """JSON-able; errors are in metres, radians and closedness, or shares of unexplained motion."""
    return {
        "evidence": examination.evidence,
        "robot": examination.robot,
        "replays": examination.replays,
        "faults": [one.convention for one in examination.faults],
        "as_read": asdict(examination.diagnosis.as_read),
        "mended": asdict(examination.diagnosis.mended),
        "findings": [asdict(one) for one in examination.findings],
    }


def examination_text(examination: Examination) -> str:
    """The verdicts, what each other reading does, and a sentence for each fault."""
    parts = [f"evidence: {examination.evidence}", _verdicts(examination.findings)]
    if costs := _costs(examination):
        parts.append(costs)
    faults = examination.faults
    held = sum(one.verdict == "ok" for one in examination.findings)
    parts.append(
        "\n".join(_sentence(one) for one in faults)
        or f"no inconsistent convention; {held} checks hold"
    )
    return "\n\n".join(parts)


def _verdicts(findings: list[Finding]) -> str:
    rows = [["convention", "as expected", "verdict", "margin", ""]]
    for one in findings:
        margin = "" if one.margin is None else f"x {one.margin:.3g}"
        rows.append([one.convention, one.expected, one.verdict, margin, one.found or one.why])
    return text_table(rows)


def _costs(examination: Examination) -> str:
    """What the motion would be like if each convention was read otherwise."""
    listed = [(one, cost) for one in examination.findings for cost in one.costs]
    if not listed:
        return ""
    replayed = examination.replays > 0
    counts = replayed and examination.diagnosis.as_read.successes is not None
    units = ("tool (mm)", "rotation (deg)", "gripper")
    if not replayed:
        units = ("motion unexplained", "rotation unexplained", "gripper")
    header = ["convention", "read as", *units, *(["replays that succeed"] if counts else [])]

    def row(name: str, reading: str, measured: Measured) -> list[str]:
        cells = [name, reading, *_numbers(measured, replayed)]
        return [*cells, f"{measured.successes} of {examination.replays}"] if counts else cells

    rows = [header, row("all", "as expected", examination.diagnosis.as_read)]
    rows += [
        row(one.convention, cost.reading, cost.measured)
        for one, cost in listed
        if cost.ratio is not None
    ]
    return text_table(rows)


def _numbers(measured: Measured, replayed: bool) -> list[str]:
    metres, radians, gripper = measured.errors
    if not replayed:
        return [f"{metres:.2f}", f"{radians:.2f}", f"{gripper:.2f}"]
    return [f"{metres * 1e3:.1f}", f"{math.degrees(radians):.2f}", f"{gripper:.2f}"]


def _sentence(fault: Finding) -> str:
    line = (
        f"fault: {fault.convention}: {fault.found}; expected: {fault.expected}. Fix: {fault.mend}"
    )
    return line + "".join(f". As likely: {other}" for other in fault.alike)
