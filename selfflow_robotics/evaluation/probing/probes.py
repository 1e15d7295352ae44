"""Linear probes: which quantities a linear map can predict from a network's features.

An image is one slot `first_frame`, noised to one timestep t for all tokens, with its text as
context: the path that pretraining's role "image" trains. t = 0 is the clean image on the same path,
patch by patch with timestep 0; p(t) rarely samples it in training, and a policy's clean frame takes
a different path, which sees the whole frame. For a network fine-tuned without the role "image", the
probe shows what is left of pretraining.

Features are the raw hidden tokens after a block (layer 0: the embedded image), concatenated. A
token's position tells where an object is, which an average over tokens loses (with the default
network at t = 0, the object's error is 4.5 cm from the tokens of the last block, 5.8 from a random
projection to 512 numbers, 6.9 from their mean). If an image has very many tokens, neighbours are
averaged (`flatten`). The regression is ridge, with the penalty chosen on validation episodes.
Baselines are the training mean and ridge on the network's input pixels. With fewer frames than
features, a bad score may be due to the regression: the probe gives a lower bound on what the
features encode.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.probing.frames import TARGETS, Frames
from selfflow_robotics.evaluation.probing.ridge import (
    PENALTIES,
    Ridge,
    median_and_interval,
    r2_and_interval,
    resample_weights,
)
from selfflow_robotics.flow import path
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.timesteps import Timesteps

BATCH = 64
MAX_GRID = 6
SHARES = {"train": 0.6, "validation": 0.2}  # shares of the episodes; the rest is the test set
MIN_EPISODES = 5


def check_timesteps(timesteps: Sequence[float]) -> None:
    """Raise UserError unless there are some, each in [0, 1]."""
    if not timesteps or not all(0 <= t <= 1 for t in timesteps):
        raise UserError(f"timesteps must be numbers in [0, 1], got {timesteps}")


def chosen_layers(wanted: Sequence[int] | None, bundle: Bundle) -> list[int]:
    """The layers to probe, ascending; None: all. Raises UserError if one does not exist."""
    depth = bundle.network.config.backbone.depth
    layers = sorted(set(range(depth + 1) if wanted is None else wanted))
    if not layers or layers[0] < 0 or layers[-1] > depth:
        raise UserError(f"layers must be numbers from 0 to {depth} for this network, got {layers}")
    return layers


def split_by_episode(episode: np.ndarray) -> dict[str, np.ndarray]:
    """Rows (int [n_part]) of train, validation and test; no episode is in two of them.

    Episodes are split by number, so each part has all of the alternating variants. Raises UserError
    for fewer than `MIN_EPISODES`.
    """
    names = np.unique(episode)
    if len(names) < MIN_EPISODES:
        raise UserError(
            f"probes need images of at least {MIN_EPISODES} episodes, got {len(names)}; increase "
            "num_episodes=..."
        )
    first = round(SHARES["train"] * len(names))
    second = first + max(1, round(SHARES["validation"] * len(names)))
    parts = np.split(names, [first, second])
    rows = [np.flatnonzero(np.isin(episode, part)) for part in parts]
    return dict(zip(("train", "validation", "test"), rows, strict=True))


def flatten(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens [B, N, D] of an image as vectors [B, n D]: n = N, or neighbours on the grid (rows,
    columns) averaged down to 6 by 6 where it is larger than that."""
    height, width = (min(side, MAX_GRID) for side in grid)
    if (height, width) != grid:
        picture = rearrange(tokens.float(), "b (h w) d -> b d h w", h=grid[0])
        pooled = F.adaptive_avg_pool2d(picture, (height, width))
        tokens = rearrange(pooled, "b d h w -> b (h w) d")
    return tokens.float().flatten(1)


@torch.no_grad()
def picture_features(
    bundle: Bundle,
    x_t: Tensor,
    t: float,
    layers: Sequence[int],
    words: list[str] | None = None,
) -> dict[int, Tensor]:
    """Hidden tokens [B, N, D] after each of `layers` blocks (0: embedded) for image tokens x_t [B,
    N, C] at time t, with `words` but no class label."""
    network, slots = bundle.network, {"first_frame": bundle.slot("first_frame", x_t)}
    timesteps = Timesteps.constant(t, x_t.to(bundle.device))
    features = {}
    if 0 in layers:
        features[0] = network.embed(slots, timesteps, clean=False).hidden
    if blocks := [layer for layer in layers if layer > 0]:
        told = None if words is None else bundle.words(words)
        context = network.encode_context({}, told)
        features |= network(slots, timesteps, context, blocks, stop=True)[1]
    return features


@dataclass(frozen=True)
class Source:
    """The input of a regression: features after `layer` blocks, or the pixels (`layer` None)."""

    t: float
    layer: int | None
    values: np.ndarray  # float32 [n, d]


@torch.no_grad()
def read_sources(
    bundle: Bundle, frames: Frames, layers: list[int], timesteps: list[float], seed: int
) -> Iterator[Source]:
    """The pixels and each layer at each timestep, with the same noise at all timesteps."""
    codec = bundle.frames
    tokens = codec.encode(torch.from_numpy(frames.images)[:, None])
    noise = torch.randn(tokens.shape, generator=torch_generator("probe noise", seed))
    for t in timesteps:
        x_t = path.interpolate(tokens, noise, torch.tensor(t))
        yield Source(t, None, x_t.flatten(1).numpy())
        parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for start in range(0, len(x_t), BATCH):
            rows = slice(start, start + BATCH)
            words = frames.instructions[rows]
            for layer, features in picture_features(bundle, x_t[rows], t, layers, words).items():
                parts[layer].append(flatten(features, codec.grid).cpu())
        for layer in layers:
            yield Source(t, layer, torch.cat(parts.pop(layer)).numpy())


def probe(
    bundle: Bundle,
    frames: Frames,
    layers: list[int],
    timesteps: list[float],
    seed: int,
    on_source: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """One row (`score_source`) per target for predicting the mean, and per target and source."""
    parts = split_by_episode(frames.episode)
    weights = resample_weights(frames.episode[parts["test"]], seed)
    rows = []
    for name, truth in frames.truth.items():
        mean = truth[parts["train"]].mean(axis=0)
        true = truth[parts["test"]]
        scores = _scores(name, np.broadcast_to(mean, true.shape), true, mean, weights)
        rows.append({"source": "mean", "layer": None, "t": None, "penalty": None, **scores})
    for source in read_sources(bundle, frames, layers, timesteps, seed):
        rows += score_source(source, frames.truth, parts, weights)
        on_source()
    return rows


def score_source(
    source: Source,
    truth: dict[str, np.ndarray],
    parts: dict[str, np.ndarray],
    weights: np.ndarray,
) -> list[dict[str, Any]]:
    """Fit on the training rows, choose each target's penalty on validation rows, score on test.

    Each row: source ("features" or "pixels"), layer, t, target, penalty, median_error (in the
    target's unit) and r2 (against the training mean), the last two with a 95 % interval over
    episodes.
    """
    x = {part: source.values[rows] for part, rows in parts.items()}
    y = np.concatenate(list(truth.values()), axis=1)
    fit = Ridge(x["train"], y[parts["train"]])
    guesses = {penalty: fit.predict(x["validation"], penalty) for penalty in PENALTIES}
    rows, start = [], 0
    for name, values in truth.items():
        columns = slice(start, start + values.shape[1])
        start = columns.stop
        true = {part: values[rows] for part, rows in parts.items()}
        costs = {
            penalty: np.square(guess[:, columns] - true["validation"]).sum()
            for penalty, guess in guesses.items()
        }
        penalty, _ = min(costs.items(), key=itemgetter(1))
        predicted = fit.predict(x["test"], penalty)[:, columns]
        scores = _scores(name, predicted, true["test"], true["train"].mean(axis=0), weights)
        kind = "pixels" if source.layer is None else "features"
        rows.append(
            {"source": kind, "layer": source.layer, "t": source.t, "penalty": penalty, **scores}
        )
    return rows


def _scores(
    name: str, predicted: np.ndarray, true: np.ndarray, mean: np.ndarray, weights: np.ndarray
) -> dict[str, Any]:
    median, median_interval = median_and_interval(TARGETS[name].error(predicted, true), weights)
    r2, r2_interval = r2_and_interval(predicted, true, mean, weights)
    return {
        "target": name,
        "median_error": median,
        "median_error_interval": median_interval,
        "r2": r2,
        "r2_interval": r2_interval,
    }
