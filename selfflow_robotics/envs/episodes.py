"""An episode to play, as data."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EpisodeSpec:
    """Which episode: everything that a simulator needs to start it, JSON-able.

    `seed` decides all that `options` leave open (see `envs.base.RobotEnv.begin`).
    """

    task: str
    variant: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
