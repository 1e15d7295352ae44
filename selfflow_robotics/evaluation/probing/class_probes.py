"""Class probes: how well a linear classifier predicts the class from a network's features.

This is the paper's linear probing by layer (arXiv 2603.06507). An image's latents are sampled as in
training, noised to one timestep t for all tokens, and run through the network; the features of a
layer are its raw hidden tokens averaged over the image. The network gets the null label: with the
real one, adaLN would write the class into every token. (After training with label_dropout=0, the
null label is a random vector.) Test images are held out from the classifier only; for images that
the network has not seen either, use other latents.

The classifier is ridge regression on one-hot targets with argmax. It has a unique closed-form
solution, and one eigendecomposition serves all penalties and classes: 7000 images of 1000 classes
take 2 s on one core with 1152 features and 25 s with 4096. Logistic regression may find more, but
its results would depend on the solver and stopping rule. The penalty is chosen by accuracy on
validation images. With few images per class, the classifier's own error dominates: only compare
results with the same cache, number of images and seed, which use the same images and noise.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfflow_robotics.data.latents import LatentReader, sample_posterior
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.probing.probes import BATCH, Source, picture_features
from selfflow_robotics.evaluation.probing.ridge import PENALTIES, Ridge
from selfflow_robotics.evaluation.statistics import wilson_interval
from selfflow_robotics.flow import path
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.rng import numpy_generator, torch_generator

SHARES = {"train": 0.7, "validation": 0.1}  # shares of the images; the rest is the test set
MIN_PICTURES = 20
# Largest number of features per image in the baseline: just enough for SD-VAE at 256 px. The cost
# of ridge grows with its cube.
MAX_LATENTS = 4096


def check_fits(bundle: Bundle, reader: LatentReader) -> None:
    """Raises UserError if `reader` has a different kind of latents than the network, or fewer than
    two classes."""
    if len(reader.labels) < 2:
        raise UserError(f"{reader.folder} has images of only one class; a probe needs at least two")
    codec = bundle.frames
    wanted, found = (
        f"{channels} x {height} x {width}"
        for channels, height, width in (
            (codec.latent_channels, *codec.latent_size),
            (reader.channels, *reader.latent_size),
        )
    )
    if wanted != found:
        raise UserError(
            f"{bundle.origin} reads latents of {wanted}, but {reader.folder} has {found}; choose "
            "other --data"
        )
    maker, made_by = reader.autoencoder, reader.fingerprints["autoencoder"]
    if maker.kind != codec.source.kind or codec.fingerprint not in (None, made_by):
        raise UserError(
            f"{reader.folder} has latents of a different autoencoder "
            f"({maker.weights or maker.kind}) than {bundle.origin} was trained on; choose other "
            "--data"
        )


def split_pictures(
    num_rows: int, copies: int, num_pictures: int, seed: int
) -> dict[str, np.ndarray]:
    """Rows (int64 [n_part], ascending) of train, validation and test, of images drawn at random.

    Args:
        num_rows: rows of the cache; `copies` adjacent rows belong to one image.
        copies: no image is in two parts. Train has all rows, including mirror images; the others
            have the first row of each image, since mirror images are not independent samples.
        num_pictures: largest number of images to use.

    Raises UserError for fewer than `MIN_PICTURES`.
    """
    drawn = numpy_generator("class probe pictures", seed).permutation(num_rows // copies)[
        :num_pictures
    ]
    if len(drawn) < MIN_PICTURES:
        raise UserError(
            f"class probes need at least {MIN_PICTURES} images, got {len(drawn)}; use a larger "
            "--data"
        )
    first = round(SHARES["train"] * len(drawn))
    second = first + round(SHARES["validation"] * len(drawn))
    train, validation, test = (np.sort(part) for part in np.split(drawn, [first, second]))
    return {
        "train": (copies * train[:, None] + np.arange(copies)).ravel(),
        "validation": copies * validation,
        "test": copies * test,
    }


def flat_latents(latents: Tensor) -> Tensor:
    """Latents [B, C, H, W] as [B, n]; neighbours are averaged if there are more
    than `MAX_LATENTS`."""
    side = min(latents.shape[-1], int((MAX_LATENTS / latents.shape[1]) ** 0.5))
    if side < latents.shape[-1]:
        latents = F.adaptive_avg_pool2d(latents, side)
    return latents.flatten(1)


@torch.no_grad()
def read_sources(
    bundle: Bundle,
    reader: LatentReader,
    rows: np.ndarray,
    layers: Sequence[int],
    timesteps: Sequence[float],
    seed: int,
    on_step: Callable[[], object] = lambda: None,
) -> Iterator[Source]:
    """The noised latents (`layer` None) and each layer's features of `rows` [n], at each timestep.

    A row's latents and noise are the same at all timesteps and depend on the seed and the rows.
    `on_step` is called after each batch of a timestep.
    """
    for t in timesteps:
        parts: dict[int | None, list[np.ndarray]] = {layer: [] for layer in (None, *layers)}
        for start in range(0, len(rows), BATCH):
            mean, std, _ = map(torch.from_numpy, reader.read(rows[start : start + BATCH]))
            generator = torch_generator("class probe noise", seed, start)
            latents = sample_posterior(mean, std, generator)
            noise = torch.randn(latents.shape, generator=generator)
            x_t = path.interpolate(latents, noise, torch.tensor(t))
            parts[None].append(flat_latents(x_t).numpy())
            tokens = bundle.frames.to_tokens(x_t[:, None])
            for layer, features in picture_features(bundle, tokens, t, layers).items():
                parts[layer].append(features.float().mean(dim=1).cpu().numpy())
            on_step()
        for layer in (None, *layers):
            yield Source(t, layer, np.concatenate(parts.pop(layer)))


def num_batches(num_rows: int) -> int:
    """How often `read_sources` calls `on_step` for each timestep."""
    return -(-num_rows // BATCH)


def probe_classes(
    bundle: Bundle,
    reader: LatentReader,
    parts: dict[str, np.ndarray],
    layers: Sequence[int],
    timesteps: Sequence[float],
    seed: int,
    on_step: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """One row for guessing the most frequent class, and one (`score_source`) per source.

    `parts` are rows of the cache from `split_pictures`. `on_step` is called after each batch and
    each fit. Raises UserError for features that are not finite.
    """
    rows = np.concatenate(list(parts.values()))
    # In batches, since labels are read with the latents, which may not all fit in memory.
    starts = range(0, len(rows), BATCH)
    labels = np.concatenate([reader.read(rows[start : start + BATCH]).labels for start in starts])
    ends = np.cumsum([len(part) for part in parts.values()])
    numbers = dict(zip(parts, np.split(np.arange(len(rows)), ends[:-1]), strict=True))
    found, counts = np.unique(labels[numbers["train"]], return_counts=True)
    frequent = found[np.argmax(counts)] == labels[numbers["test"]]
    scores = [
        {"source": "most frequent class", "layer": None, "t": None, "penalty": None}
        | _accuracy(frequent)
    ]
    for source in read_sources(bundle, reader, rows, layers, timesteps, seed, on_step):
        if not np.isfinite(source.values).all():
            raise UserError(
                f"layer {source.layer} of {bundle.origin} has values that are not finite: its "
                "training diverged"
            )
        scores.append(score_source(source, labels, numbers))
        on_step()
    return scores


def score_source(
    source: Source, labels: np.ndarray, parts: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Fit on the training rows, choose the penalty on validation rows, score on test rows.

    `labels` int64 [n] belong to the rows of `source.values`, and `parts` index those rows. Result:
    source ("features" or "latents"), layer, t, penalty, correct, count, accuracy in [0, 1] and
    Wilson's 95 % interval of it. Classes without training rows are never predicted.
    """
    x = {part: source.values[rows] for part, rows in parts.items()}
    y = {part: labels[rows] for part, rows in parts.items()}
    classes, numbers = np.unique(y["train"], return_inverse=True)
    fit = Ridge(x["train"], np.eye(len(classes))[numbers])

    def hits(part: str, penalty: float) -> np.ndarray:
        return classes[fit.predict(x[part], penalty).argmax(axis=1)] == y[part]

    # Among equally good penalties the largest: the smoothest classifier.
    penalty = max(PENALTIES, key=lambda penalty: (hits("validation", penalty).sum(), penalty))
    kind = "latents" if source.layer is None else "features"
    return {
        "source": kind,
        "layer": source.layer,
        "t": source.t,
        "penalty": penalty,
        **_accuracy(hits("test", penalty)),
    }


def _accuracy(hits: np.ndarray) -> dict[str, Any]:
    correct, count = int(hits.sum()), len(hits)
    return {
        "correct": correct,
        "count": count,
        "accuracy": correct / count,
        "interval": list(wilson_interval(correct, count)),
    }
