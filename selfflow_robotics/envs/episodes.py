"""An episode to play, as data, and the random choices for it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfflow_robotics.envs.tasks.base import Choice, Task
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
    """How an episode starts: `seed`, the task's `starts`, and one value from each of `choices`.

    `options` take precedence; the rest is drawn from the seed, identically in every simulator.
    Raises UserError for unknown options or values.
    """
    known = {**task.starts, **{name: Choice(values) for name, values in choices.items()}}
    if unknown := sorted(set(options) - set(known)):
        raise UserError(f"unknown episode option {unknown[0]!r}; known: {', '.join(known)}")
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed])))
    # Everything is drawn, used or not, so that an option does not change the other draws.
    start = {name: option.draw(draw) for name, option in known.items()} | options
    checked = {name: option.check(name, start[name]) for name, option in known.items()}
    return {"seed": int(seed), **checked}


def drawn(task: Task, episode: EpisodeSpec) -> dict[str, Any]:
    """How an episode of `task` starts in every simulator, without the simulators' own options."""
    options = {"variant": episode.variant, **episode.options}
    return draw_start(task, episode.seed, {k: v for k, v in options.items() if k in task.starts})
