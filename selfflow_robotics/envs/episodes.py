"""An episode to play, as data, and the random choices for it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfflow_robotics.envs.tasks import Task
from selfflow_robotics.errors import UserError


@dataclass(frozen=True)
class EpisodeSpec:
    """Everything a simulator needs to start an episode, JSON-able.

    `seed` determines everything not in `options` (see `envs.base.RobotEnv.begin`).
    """

    task: str
    variant: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict)


def draw_start(
    task: Task, seed: int, options: dict[str, Any], **choices: tuple[str, ...]
) -> dict[str, Any]:
    """How an episode starts: `seed`, `variant`, `object_xy` (m, world), and one value from each of
    `choices`.

    `options` take precedence; the rest is drawn from the seed, identically in every simulator.
    Raises UserError for unknown options or values.
    """
    known = {"variant": task.variants, **choices}
    if unknown := sorted(set(options) - {*known, "object_xy"}):
        names = ", ".join((*known, "object_xy"))
        raise UserError(f"unknown episode option {unknown[0]!r}; known: {names}")
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed])))
    # Everything is drawn, used or not, so that an option does not change the other draws.
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
        raise UserError(f"object_xy must be two numbers (m, world), got {start['object_xy']!r}")
    return {**start, "object_xy": xy.tolist()}
