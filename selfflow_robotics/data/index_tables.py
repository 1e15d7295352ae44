"""The tables of a robot index: arrays with a row for each step, or for each episode.

`collect` makes them of consecutive episodes, and `merge` of consecutive parts, which several
processes may have collected: parts of any size give equal tables.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfflow_robotics.errors import UserError

Tables = dict[str, Any]
# Why an episode is left out.
LEFT_OUT = ("shorter than two steps", "numbers not finite", "instruction not UTF-8")


@dataclass(frozen=True)
class Columns:
    """The arrays of a format: for each step dtype and shape of a row, for each episode dtype."""

    per_step: dict[str, tuple[type, tuple[int, ...]]]
    per_episode: dict[str, type]
    texts: tuple[str, ...]  # lists of strings


# What the index of every format has; `instruction` is a place in the list `instructions`.
COMMON = Columns(
    {
        "actions": (np.float32, (7,)),
        "proprio": (np.float32, (8,)),
        "instruction": (np.int32, ()),
    },
    {"episode_length": np.int64, "success": np.bool_, "failed": np.bool_},
    ("instructions",),
)


def why_left_out(episode: dict[str, Any]) -> str | None:
    """One of `LEFT_OUT` if training cannot use an episode, which has at least actions [T, 7],
    proprio [T, 8] and `texts`; None if it can."""
    short, infinite, garbled = LEFT_OUT
    if len(episode["actions"]) < 2:
        return short
    if not all(np.isfinite(episode[key]).all() for key in ("actions", "proprio")):
        return infinite
    return garbled if any(map(has_surrogates, {*episode["texts"]})) else None


def has_surrogates(text: str) -> bool:
    """Whether the text has half of a character's code, which no UTF-8 file can hold."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def collect(columns: Columns, episodes: Iterable[dict[str, Any]]) -> Tables:
    """The tables of some episodes, each with its `columns` and its `texts`, an instruction a step.

    Episodes are left out for the causes in `LEFT_OUT` and counted: `left_out` is int64 [3].
    """
    kept: list[dict[str, Any]] = []
    vocabulary: dict[str, int] = {}
    left_out = np.zeros(len(LEFT_OUT), np.int64)
    for episode in episodes:
        if cause := why_left_out(episode):
            left_out[LEFT_OUT.index(cause)] += 1
            continue
        words = [vocabulary.setdefault(text, len(vocabulary)) for text in episode["texts"]]
        found = episode | {"instruction": np.array(words, np.int32), "episode_length": len(words)}
        kept.append({key: found[key] for key in (*columns.per_step, *columns.per_episode)})
    tables: Tables = {"instructions": list(vocabulary), "left_out": left_out}
    for key, (kind, shape) in columns.per_step.items():
        nothing = np.empty((0, *shape), kind)
        tables[key] = np.concatenate([nothing, *(episode[key] for episode in kept)])
    for key, kind in columns.per_episode.items():
        tables[key] = np.array([episode[key] for episode in kept], kind)
    return tables


def merge(columns: Columns, parts: Sequence[Tables], where: object) -> Tables:
    """The tables of consecutive parts, which are emptied. Adds `episode_start`, each episode's
    first step.

    Raises UserError naming the data set `where` if no episode is left.
    """
    vocabulary: dict[str, int] = {}
    for part in parts:
        places = [vocabulary.setdefault(text, len(vocabulary)) for text in part["instructions"]]
        part["instruction"] = np.array(places, np.int32)[part["instruction"]]
    tables: Tables = {
        key: np.concatenate([part.pop(key) for part in parts])
        for key in (*columns.per_step, *columns.per_episode)
    }
    tables["left_out"] = np.sum([part["left_out"] for part in parts], axis=0)
    for key in columns.texts:
        tables[key] = list(dict.fromkeys(text for part in parts for text in part[key]))
    lengths = tables["episode_length"]
    tables["episode_start"] = np.cumsum(lengths) - lengths
    if not len(lengths):
        counts = zip(tables["left_out"].tolist(), LEFT_OUT, strict=True)
        told = ", ".join(f"{count} {cause}" for count, cause in counts if count)
        raise UserError(f"{where}: no usable episode: {told}")
    return tables


def plausible(columns: Columns, tables: Tables) -> bool:
    """Whether tables from a file have these columns, and numbers that fit together.

    May raise KeyError or TypeError if they do not.
    """
    lengths, starts = tables["episode_length"], tables["episode_start"]
    steps, episodes = len(tables["actions"]), len(lengths)
    expected = {key: (kind, (steps, *shape)) for key, (kind, shape) in columns.per_step.items()}
    expected |= {key: (kind, (episodes,)) for key, kind in columns.per_episode.items()}
    expected["episode_start"] = (np.int64, (episodes,))
    expected |= {"left_out": (np.int64, (len(LEFT_OUT),)), "image_size": (np.int64, (2,))}
    found = {key: (tables[key].dtype.type, tables[key].shape) for key in expected}
    if found != expected:
        return False
    texts = tables["instructions"]
    return bool(
        all(
            isinstance(tables[key], list) and all(isinstance(text, str) for text in tables[key])
            for key in columns.texts
        )
        and episodes > 0
        and (lengths >= 2).all()
        and (lengths <= steps).all()
        and lengths.sum() == steps
        and (starts == np.cumsum(lengths) - lengths).all()
        and ((tables["instruction"] >= 0) & (tables["instruction"] < len(texts))).all()
        and np.isfinite(tables["actions"]).all()
        and np.isfinite(tables["proprio"]).all()
        and (tables["image_size"] > 0).all()
    )
