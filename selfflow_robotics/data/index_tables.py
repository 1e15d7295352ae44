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


def collect(columns: Columns, episodes: Iterable[dict[str, Any]]) -> Tables:
    """The tables of some episodes, each with its `columns` and its `texts`, an instruction a step.

    Leaves out and counts episodes with fewer than two steps, and those with actions or
    proprioception that are not finite: `left_out` is int64 [2].
    """
    kept: list[dict[str, Any]] = []
    vocabulary: dict[str, int] = {}
    left_out = np.zeros(2, np.int64)
    for episode in episodes:
        values = np.concatenate([episode["actions"], episode["proprio"]], axis=1)
        if len(values) < 2:
            left_out[0] += 1
        elif not np.isfinite(values).all():
            left_out[1] += 1
        else:
            words = [vocabulary.setdefault(text, len(vocabulary)) for text in episode["texts"]]
            made = {"instruction": np.array(words, np.int32), "episode_length": len(values)}
            found = episode | made
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
        short, odd = tables["left_out"]
        raise UserError(
            f"{where}: no usable episode; {short} have fewer than two steps, {odd} have numbers "
            "that are not finite"
        )
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
    expected["left_out"] = expected["image_size"] = (np.int64, (2,))
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
