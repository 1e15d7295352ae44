"""Warnings about problems that are visible in a run's metrics.jsonl."""

import math
from collections.abc import Sequence
from typing import Any

from selfflow_robotics.training.metrics import early_agreement

Records = Sequence[dict[str, Any]]

COSINE = 0.999  # above this, the features have probably become constant
SPREAD = 0.01  # relative to the features' size
RANK = 1.5
WAIT_SHARE = 0.2  # share of a step spent waiting for data
FALL = 0.98  # largest ratio of the last fifth's loss to the first fifth's that counts as falling
LEAST_RECORDS = 20  # a trend needs at least this many
SPREADS = {
    "spread_batch": "do not differ between samples",
    "spread_tokens": "do not differ between places of a sample",
}


def run_warnings(records: Records, steps: int = 0) -> list[str]:
    """One line per problem; empty for a healthy run. `steps` of the whole run; 0: unknown."""
    early = early_agreement(records, steps)
    return [
        *_not_finite(records),
        *([early] if early else []),
        *_collapse(records),
        *_not_falling(records),
        *_waiting(records),
    ]


def values_of(records: Records, key: str) -> list[tuple[float, float]]:
    """(step, value) of each record in which `key` is a number; null (not finite) becomes NaN."""
    return [
        (r["step"], math.nan if r[key] is None else float(r[key]))
        for r in records
        if key in r and not isinstance(r[key], (str, list, dict))
    ]


def _not_finite(records: Records) -> list[str]:
    found: dict[str, int] = {}
    for record in records:
        for key, value in record.items():
            if value is None:
                found.setdefault(key, record["step"])
    return [f"{key} is not finite, first at step {step}" for key, step in found.items()]


def _collapse(records: Records) -> list[str]:
    warnings = []
    cosine = _late_mean(records, "teacher_student_cosine")
    if cosine is not None and cosine > COSINE:
        warnings.append(
            f"collapse: the teacher-student cosine is {cosine:.5f}, as if the features were "
            "constant"
        )
    for who in ("student", "teacher"):
        for key, words in SPREADS.items():
            spread = _late_mean(records, f"{who}/{key}")
            if spread is not None and spread < SPREAD:
                warnings.append(
                    f"collapse: the {who}'s features {words} ({key} {spread:.2g} of their size)"
                )
        rank = _late_mean(records, f"{who}/rank")
        if rank is not None and rank < RANK:
            warnings.append(f"collapse: the {who}'s features have effective rank {rank:.2f}")
    return warnings


def _not_falling(records: Records) -> list[str]:
    warnings = []
    for role in dict.fromkeys(record.get("role") for record in records):
        own = [record for record in records if record.get("role") == role]
        key = "flow_loss" if any("flow_loss" in record for record in own) else "loss"
        values = [value for _, value in values_of(own, key) if math.isfinite(value)]
        if len(values) < LEAST_RECORDS:
            continue
        fifth = len(values) // 5
        first, last = sum(values[:fifth]) / fifth, sum(values[-fifth:]) / fifth
        if last > FALL * first:
            name = key if role is None else f"{key} of {role}"
            warnings.append(
                f"the {name} is not falling: {first:.4g} in the first fifth of the run, "
                f"{last:.4g} in the last"
            )
    return warnings


def _waiting(records: Records) -> list[str]:
    """Waiting for data; the first record is excluded, since it includes startup."""
    pairs = [
        (record["data_wait_s"], record["step_s"])
        for record in records[1:]
        if record.get("data_wait_s") is not None and record.get("step_s") is not None
    ]
    step = sum(s for _, s in pairs)
    if step == 0:
        return []
    share = sum(wait for wait, _ in pairs) / step
    if share <= WAIT_SHARE:
        return []
    return [f"{share:.0%} of the time is spent waiting for data; reading is the bottleneck"]


def _late_mean(records: Records, key: str) -> float | None:
    """The mean of the last tenth of the records, at least 3; None if there are none."""
    values = [value for _, value in values_of(records, key) if math.isfinite(value)]
    late = values[-max(3, len(values) // 10) :]
    return sum(late) / len(late) if late else None
