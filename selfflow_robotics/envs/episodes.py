"""An episode to play, as data, and what a simulator draws for it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfflow_robotics.envs.tasks import Task
from selfflow_robotics.errors import UserError


@dataclass(frozen=True)
class EpisodeSpec:
    """Which episode: everything that a simulator needs to start it, JSON-able.

    `seed` decides all that `options` leave open (see `envs.base.RobotEnv.begin`).
    """

    task: str
    variant: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict)


def draw_start(
    task: Task, seed: int, options: dict[str, Any], **choices: tuple[str, ...]
) -> dict[str, Any]:
    """How an episode starts: `seed`, `variant`, `object_xy` (m, world), and one of each `choices`.

    What `options` say holds, the rest is drawn from the seed, the same in every simulator. Raises
    UserError for an option or a value that there is not.
    """
    known = {"variant": task.variants, **choices}
    if unknown := sorted(set(options) - {*known, "object_xy"}):
        names = ", ".join((*known, "object_xy"))
        raise UserError(f"unknown episode option {unknown[0]!r}; known: {names}")
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed])))
    # Everything is drawn, used or not: an option given does not move the other draws.
    variant = task.variants[int(draw.integers(len(task.variants)))]
    drawn_xy = [draw.uniform(*task.object_x_m), draw.uniform(*task.object_y_m)]
    start = {"seed": int(seed), "variant": variant, "object_xy": drawn_xy}
    start |= {name: values[int(draw.integers(len(values)))] for name, values in choices.items()}
    start |= options
    for name, values in known.items():
        if start[name] not in values:
            raise UserError(f"unknown {name} {start[name]!r}; known: {', '.join(values)}")
    xy = np.asarray(start["object_xy"], np.float64)
    if xy.shape != (2,) or not np.isfinite(xy).all():
        raise UserError(f"object_xy is two numbers (m, world), got {start['object_xy']!r}")
    return {**start, "object_xy": xy.tolist()}
