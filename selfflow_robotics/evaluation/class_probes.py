"""Class probes: how well a linear classifier reads the class off a network's features.

The paper's question of an image network (linear probing by layer, arXiv 2603.06507). An image's
latents are drawn as in training, noised to one timestep t for all tokens, and run through the
network; a layer's features are its raw hidden tokens averaged over the image. The network is told
the null label: told the class, it would write it into every token through adaLN, and the probe
would find what was put in. (A network that was trained with label_dropout=0 has never met the null
label, which then is a random vector.) Images that the network was trained on are held out from
the classifier only; to ask about images that neither has seen, give latents of others.

The classifier is ridge regression on one-hot targets, the largest output wins: least squares is a
linear classifier with one solution in closed form, the same whichever way it is computed, and one
eigendecomposition serves all penalties and classes: 7000 images of 1000 classes take one core 2 s
with 1152 features and 25 s with 4096. Logistic regression, which may find more, would want a
solver, its steps and a stopping rule, and the numbers would depend on them. The penalty is chosen
by accuracy on validation images. With few images a class the classifier's own error bounds what
it finds: compare numbers of one cache, number of images and seed alone, where images and noise
are the same ones.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfflow_robotics.data.latents import LatentReader, sample_posterior
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.probes import BATCH, Source, picture_features
from selfflow_robotics.evaluation.ridge import PENALTIES, Ridge
from selfflow_robotics.evaluation.statistics import wilson_interval
from selfflow_robotics.flow import path
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.rng import numpy_generator, torch_generator

SHARES = {"train": 0.7, "validation": 0.1}  # of the images; the rest is the test
MIN_PICTURES = 20
# Numbers of an image in the baseline: SD-VAE's at 256 px just fit. Ridge's cost is their cube.
MAX_LATENTS = 4096


def check_fits(bundle: Bundle, reader: LatentReader) -> None:
    """Raises UserError where `reader` has not the kind of latents that the network was made for, or
    no two classes."""
    if len(reader.labels) < 2:
        raise UserError(f"{reader.folder} has images of one class only; there is nothing to read")
    codec = bundle.frames
    wanted, found = (
        f"{channels} x {height} x {width}"
        for channels, height, width in (
            (codec.latent_channels, *codec.latent_size),
            (reader.channels, reader.latent_size, reader.latent_size),
        )
    )
    if wanted != found:
        raise UserError(
            f"{bundle.origin} takes latents of {wanted}, {reader.folder} holds {found}; give "
            "another --data"
        )
    maker, made_by = reader.autoencoder, reader.fingerprints["autoencoder"]
    if maker.kind != codec.source.kind or codec.fingerprint not in (None, made_by):
        raise UserError(
            f"{reader.folder} holds latents of another autoencoder ({maker.weights or maker.kind}) "
            f"than {bundle.origin} was trained on; give another --data"
        )


def split_pictures(
    num_rows: int, copies: int, num_pictures: int, seed: int
) -> dict[str, np.ndarray]:
    """Rows (int64 [n_part], ascending) of train, validation and test, of images drawn at random.

    Args:
        num_rows: of the cache; `copies` rows after one another are one image.
        copies: no image is in two parts. Train has all its rows, mirror images too; the others
            have the first of each: mirror images would count as trials that they are not.
        num_pictures: to use at most.

    Raises UserError for fewer than `MIN_PICTURES`.
    """
    drawn = numpy_generator("class probe pictures", seed).permutation(num_rows // copies)[
        :num_pictures
    ]
    if len(drawn) < MIN_PICTURES:
        raise UserError(
            f"class probes need at least {MIN_PICTURES} images, got {len(drawn)}; give a larger "
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
    """Latents [B, C, H, W] as [B, n]; neighbours averaged where they are over `MAX_LATENTS`."""
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

    A row's latents and noise are the same at all timesteps; they depend on the seed and on the
    rows. `on_step` is called after each batch of a timestep.
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
    """A row of guessing the most frequent class, and one (`score_source`) for each source.

    `parts` are rows of the cache as `split_pictures` makes them. `on_step` is called after each
    batch and each fit. Raises UserError for features that are not finite.
    """
    rows = np.concatenate(list(parts.values()))
    # In batches: a row's latents come with its label, and all of them might not fit in memory.
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
                "training went astray"
            )
        scores.append(score_source(source, labels, numbers))
        on_step()
    return scores


def score_source(
    source: Source, labels: np.ndarray, parts: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Fit on the training rows, choose the penalty on validation rows, score on test rows.

    `labels` int64 [n] belong to the rows of `source.values`, `parts` are numbers of those rows. A
    row of the result: source ("features" or "latents"), layer, t, penalty, correct, count, accuracy
    in [0, 1] and Wilson's 95 % interval of it. A class without training rows is never guessed.
    """
    x = {part: source.values[rows] for part, rows in parts.items()}
    y = {part: labels[rows] for part, rows in parts.items()}
    classes, numbers = np.unique(y["train"], return_inverse=True)
    fit = Ridge(x["train"], np.eye(len(classes))[numbers])

    def hits(part: str, penalty: float) -> np.ndarray:
        return classes[fit.predict(x[part], penalty).argmax(axis=1)] == y[part]

    # Of penalties that do equally well the largest: the smoothest classifier.
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
