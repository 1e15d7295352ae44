"""Which numbers may stand beside published ones, and why not."""

from pathlib import Path
from typing import Any

from selfflow_robotics.evaluation.metrics.make_reference import KEPT
from selfflow_robotics.evaluation.metrics.npz_file import INCEPTION
from selfflow_robotics.evaluation.metrics.sources import Source

NUM_SAMPLES = 50_000
ADM = ("fid", "sfid", "inception_score", "precision", "recall")

# ADM's reference file -> published rows without guidance: arXiv 2603.06507, 50 000 samples of 250
# stochastic steps with random classes.
PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "VIRTUAL_imagenet256_labeled.npz": {
        "Self-Flow, SiT-XL/2, 4 M steps": dict(
            zip(ADM, (5.70, 4.97, 151.4, 0.72, 0.67), strict=True)
        ),
        "REPA, SiT-XL/2, 4 M steps": dict(zip(ADM, (5.89, 5.73, 157.7, 0.70, 0.69), strict=True)),
        "vanilla SiT-XL/2, 7 M steps": {"fid": 8.3},
    }
}

# Metrics with a name but without a protocol that all papers share.
LOOSE = {
    "fd_dinov2": "papers differ in the reference images",
    "fvd": "papers use other networks (VideoMAEv2, I3D) and frame rates",
    "fad": "papers use other networks and sampling rates",
    "clip_score": "papers use other CLIP models and captions",
}


def differences(row: dict[str, Any], reference: Source | None) -> list[str]:
    """How a row of `measure.compute` differs from ADM's protocol, in words; empty: it does not."""
    metric = row["metric"]
    if metric in LOOSE:
        return [LOOSE[metric]]
    if metric not in ADM or row["features"] != INCEPTION:
        return [f"these are features of {row['features']}, not InceptionV3's"]
    found = []
    if row["num_samples"] != NUM_SAMPLES:
        found.append(f"{row['num_samples']} samples, not {NUM_SAMPLES}")
    if metric != "inception_score" and (reference is None or not is_adms(reference)):
        found.append("the reference is not one of ADM's files")
    elif metric in ("precision", "recall") and row["num_reference"] != KEPT:
        found.append(f"{row['num_reference']} reference images, not {KEPT}")
    return found


def is_adms(reference: Source) -> bool:
    """Whether a reference is a file of ADM's, not of this project's: its statistics name neither a
    network nor a number of images."""
    statistics = reference.statistics.values()
    return (
        reference.identity == INCEPTION
        and bool(statistics)
        and all(gaussian.count is None for gaussian in statistics)
    )


def published_rows(
    rows: list[dict[str, Any]], reference: Source | None
) -> dict[str, dict[str, float]]:
    """Published numbers that these rows may stand beside: name -> metric -> value."""
    if reference is None:
        return {}
    beside = {row["metric"] for row in rows if not differences(row, reference)}
    table = PUBLISHED.get(Path(reference.origin).name, {})
    found = {
        name: {metric: value for metric, value in values.items() if metric in beside}
        for name, values in table.items()
    }
    return {name: values for name, values in found.items() if values}
