"""Measure samples: read them once through each feature network, then compute every metric.

Only what the metrics need is kept of a set: moments for Frechet distances, all features (float32)
for precision and recall, sums for the scores. Images are never all in memory.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from scipy.signal import resample_poly

from selfflow_robotics.encoders.features import FeatureNetwork, full_name, kind_of
from selfflow_robotics.encoders.multimodal import Clip, Sounds
from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.evaluation.metrics.clip_score import ClipScore
from selfflow_robotics.evaluation.metrics.frechet import Gaussian, Moments, frechet_distance
from selfflow_robotics.evaluation.metrics.inception_score import InceptionScore
from selfflow_robotics.evaluation.metrics.npz_file import STATISTICS
from selfflow_robotics.evaluation.metrics.precision_recall import precision_recall
from selfflow_robotics.evaluation.metrics.sources import Samples, Source

Formula = Literal["frechet", "inception_score", "precision_recall", "clip_score"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A formula on an output of a feature network; `features` None: of any network."""

    label: str
    formula: Formula
    features: str | None = None
    output: str = "features"


METRICS = {
    "fid": Metric("FID", "frechet", "inception"),
    "sfid": Metric("sFID", "frechet", "inception", "spatial"),
    "inception_score": Metric("Inception Score", "inception_score", "inception", "logits"),
    "fd_dinov2": Metric("FD-DINOv2", "frechet", "dinov2-l"),
    "fvd": Metric("FVD", "frechet", "video"),
    "fad": Metric("FAD", "frechet", "sound"),
    "clip_score": Metric("CLIP score", "clip_score", "clip"),
    "frechet": Metric("Frechet distance", "frechet"),
    "precision_recall": Metric("precision, recall", "precision_recall"),
}
# What is measured with a kind of network where no metrics are named.
USUAL = {
    "inception": ("fid", "sfid", "inception_score", "precision_recall"),
    full_name("dinov2-l"): ("fd_dinov2", "precision_recall"),
    "video": ("fvd", "precision_recall"),
    "sound": ("fad", "precision_recall"),
}


def plan(
    metrics: Sequence[str] | None, features: str | None, captions: bool
) -> dict[str, list[str]]:
    """Feature network -> metrics that are measured with it.

    A metric of its own network (FID: InceptionV3) takes `features` only if they are of that kind.
    None: the usual metrics, or the usual network. Raises UserError for an unknown metric.
    """
    if metrics is None:
        name = features or "inception"
        metrics = USUAL.get(full_name(name)) or USUAL.get(kind_of(name))
        metrics = list(metrics or ("frechet", "precision_recall"))
        if captions:
            metrics.append("clip_score")
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(metrics):
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
        own = METRICS[name].features
        fits = own is None or (own != "dinov2-l" and kind_of(own) == kind_of(features or ""))
        found.setdefault(features if fits and features else own or "inception", []).append(name)
    if not found:
        raise UserError(f"metrics=[] measures nothing; there are: {', '.join(METRICS)}")
    return found


def is_compared(name: str) -> bool:
    """Whether a metric needs a reference."""
    return METRICS[name].formula in ("frechet", "precision_recall")


@dataclass
class Reading:
    """What was kept of a set of samples."""

    origin: str
    count: int = 0
    together: int = 1  # neighbours that are not independent, as in `Samples`
    # Output -> moments of every other sample (or clip, of frames), and of the rest.
    halves: dict[str, tuple[Moments, Moments]] = field(default_factory=dict)
    statistics: dict[str, Gaussian] = field(default_factory=dict)  # from a reference file
    kept: list[np.ndarray] = field(default_factory=list)
    inception_score: InceptionScore | None = None
    clip_score: ClipScore | None = None

    def gaussian(self, output: str, few: bool) -> Gaussian:
        """Of all samples; raises UserError as `Moments.gaussian`."""
        if output in self.statistics:
            return self.statistics[output]
        first, second = self.halves[output]
        return first.merged(second).gaussian(few)

    @property
    def features(self) -> np.ndarray:
        """float32 [N, D]."""
        return np.concatenate(self.kept)


def read(
    network: FeatureNetwork,
    source: Source,
    metrics: Collection[str],
    batch_size: int,
    captions: Sequence[str] | None = None,
    on_batch: Callable[[int], object] = lambda _: None,
) -> Reading:
    """Read samples through the network for these metrics; `on_batch` gets the number of samples.

    Raises UserError if the samples are not what the network reads, or too few captions.
    """
    samples = source.require(network.reads)
    reading = Reading(source.origin, together=getattr(samples, "together", 1))
    needed = [METRICS[name] for name in metrics]
    outputs = {metric.output for metric in needed if metric.formula == "frechet"}
    reading.halves = {
        output: (Moments(source.origin), Moments(source.origin)) for output in outputs
    }
    formulas = {metric.formula for metric in needed}
    if "inception_score" in formulas:
        reading.inception_score = InceptionScore(source.origin)
    if "clip_score" in formulas:
        captions = _captions(captions, samples, source.origin)
        reading.clip_score = ClipScore(source.origin)
    for start, _, outcome in outputs_of(network, source, batch_size):
        features = outcome["features"]
        is_odd = np.arange(start, start + len(features)) // reading.together % 2 == 1
        for output, (even, odd) in reading.halves.items():
            even.add(outcome[output][~is_odd])
            odd.add(outcome[output][is_odd])
        if "precision_recall" in formulas:
            reading.kept.append(features.astype(np.float32))
        if reading.inception_score:
            reading.inception_score.add(outcome["logits"])
        if reading.clip_score and captions is not None:
            assert isinstance(network, Clip)
            texts = network.captions(captions[start : start + len(features)])
            reading.clip_score.add(features, texts.cpu().numpy())
        reading.count += len(features)
        on_batch(len(features))
    return reading


def read_reference(
    network: FeatureNetwork,
    source: Source,
    metrics: Collection[str],
    batch_size: int,
    on_batch: Callable[[int], object] = lambda _: None,
) -> Reading:
    """As `read`, for a reference, whose statistics are taken from its file where they are of this
    network. Raises UserError also if they lack an output that a metric needs."""
    compared = [name for name in metrics if is_compared(name)]
    if source.statistics and network.identity in (source.identity, "given"):
        outputs = {METRICS[name].output for name in compared if name != "precision_recall"}
        for output in outputs - set(source.statistics):
            raise UserError(
                f"{source.origin} has no {' and '.join(STATISTICS[output])}; leave out the "
                "metrics that need them, or make the reference again"
            )
        compared = [name for name in compared if name == "precision_recall"]
        reading = Reading(source.origin)
        if compared:
            reading = read(network, source, compared, batch_size, on_batch=on_batch)
        reading.statistics = source.statistics
        return reading
    if source.samples is None and not source.parts:
        raise UserError(
            f"the statistics of {source.origin} are of other features ({source.identity}); choose "
            "the features that it was made with, or a reference with images"
        )
    return read(network, source, compared, batch_size, on_batch=on_batch)


def compute(
    metrics: Sequence[str],
    features: str,
    samples: Reading,
    reference: Reading | None,
    few: bool = False,
    device: torch.device | str = "cpu",
) -> list[Row]:
    """One row for each number.

    Keys: metric, label, features, value, num_samples, num_reference (None: unknown or none),
    interval (95 %, or None) and, for Frechet distances, `half`: the mean of the distances of both
    halves of the samples, and `extrapolated`: 2 value - half, where the bias c / N cancels
    (arXiv 1911.07023); None if half of the samples are no more than the features. For an Inception
    Score, `deviation` over its parts; for a CLIP score, `interval`. Raises UserError as the metrics
    do, and for a missing reference.
    """
    rows: list[Row] = []
    for name in metrics:
        metric = METRICS[name]
        row: Row = {
            "metric": name,
            "label": metric.label,
            "features": features,
            "num_samples": samples.count,
            "num_reference": None,
            "interval": None,
        }
        if metric.formula == "inception_score":
            assert samples.inception_score is not None
            scores = samples.inception_score.scores()
            row |= {"value": samples.inception_score.value(), "deviation": float(np.std(scores))}
        elif metric.formula == "clip_score":
            assert samples.clip_score is not None
            value, error = samples.clip_score.value(), samples.clip_score.standard_error()
            row |= {"value": value, "interval": [value - 1.96 * error, value + 1.96 * error]}
        elif reference is None:
            raise UserError(f"{name} compares with a reference; pass one with --reference")
        elif metric.formula == "frechet":
            real = reference.gaussian(metric.output, few)
            row |= {"num_reference": real.count, **_distances(samples, real, metric.output, few)}
        else:
            shares = precision_recall(reference.features, samples.features, device=device)
            sides = (samples.together, reference.together)
            for part, share, together in zip(("precision", "recall"), shares, sides, strict=True):
                share = replace(share, together=together)
                rows.append(
                    row
                    | {
                        "metric": part,
                        "label": part,
                        "value": share.value,
                        "interval": list(share.interval),
                        "num_reference": reference.count,
                    }
                )
            continue
        rows.append(row)
    return rows


def _distances(samples: Reading, real: Gaussian, output: str, few: bool) -> Row:
    value = frechet_distance(real, samples.gaussian(output, few))
    halves = samples.halves[output]
    if any(half.count <= real.width for half in halves):
        return {"value": value, "half": None, "extrapolated": None}
    half = float(np.mean([frechet_distance(real, part.gaussian()) for part in halves]))
    return {"value": value, "half": half, "extrapolated": 2 * value - half}


def outputs_of(
    network: FeatureNetwork, source: Source, batch_size: int
) -> Iterator[tuple[int, np.ndarray, dict[str, np.ndarray]]]:
    """(number of the first sample, samples, outputs) of each batch. Sounds are resampled to what
    the network reads.

    Raises UserError for samples that the network does not read, and outputs that are not finite.
    """
    start = 0
    for batch in source.require(network.reads).batches(batch_size):
        if isinstance(network, Sounds) and source.sample_rate != network.sample_rate:
            batch = resample_poly(batch, network.sample_rate, source.sample_rate, axis=1)
        outputs = {
            name: values.cpu().numpy()
            for name, values in network(torch.from_numpy(batch.copy())).items()
        }
        for values in outputs.values():
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(bad):
                raise UserError(
                    f"{source.origin}: the features of sample {start + int(bad[0])} are not "
                    "finite; check that sample and the feature network"
                )
        yield start, batch, outputs
        start += len(batch)


def _captions(captions: Sequence[str] | None, samples: Samples, origin: str) -> Sequence[str]:
    if captions is None:
        raise UserError("clip_score needs the samples' captions; pass a file with --captions")
    if len(captions) != len(samples):
        raise UserError(
            f"{origin} has {len(samples)} samples, but there are {len(captions)} captions; write "
            "one line for each sample, in order"
        )
    return captions
