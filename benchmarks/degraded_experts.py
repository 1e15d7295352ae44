"""Scripted experts that are disturbed on purpose: policies from bad to good, without training.

    python eval/simpler.py policy=benchmarks.degraded_experts:Noise100
    python eval/correlate.py runs/eval

Judging a simulator by how it ranks policies takes several policies of different skill that play in
both. These are the expert with noise on its actions, or with observations that are some steps old.
They depend on the episode's seed alone, so both simulators disturb them alike.

Like the expert they read the simulator's state, so they say something about physics and
controllers, and nothing about images.
"""

from collections import deque
from typing import Any

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.policies.expert import ScriptedExpert
from selfflow_robotics.policies.random import SCALES
from selfflow_robotics.rng import numpy_generator


class DegradedExpert(ScriptedExpert):
    """The expert with noise and delay.

    `noise` is the standard deviation of what is added to the six numbers of a motion, in units of
    the expert's own (`policies.random.SCALES`). `delay` is how many steps old its observations are.
    """

    noise = 0.0
    delay = 0

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__
        self._draws: dict[int, np.random.Generator] = {}
        self._seen: dict[int, deque[dict[str, Any]]] = {}

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        """Reset the state of the slot."""
        super().begin(slot, episode)
        self._scale = self.noise * np.repeat(SCALES[get_task(episode.task).robot.name], 3)
        self._draws[slot] = numpy_generator("degraded expert", episode.seed)
        self._seen[slot] = deque(maxlen=self.delay + 1)

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None,
    ) -> list[np.ndarray]:
        """One action for each slot."""
        for slot, info in zip(slots, infos or (), strict=True):
            self._seen[slot].append(info)
        chunks = super().act(slots, observations, [self._seen[slot][0] for slot in slots])
        for slot, chunk in zip(slots, chunks, strict=True):
            chunk[0, :6] += self._scale * self._draws[slot].normal(size=6)
        return chunks


class Noise80(DegradedExpert):
    noise = 0.8


class Noise100(DegradedExpert):
    noise = 1.0


class Noise120(DegradedExpert):
    noise = 1.2


class Noise150(DegradedExpert):
    noise = 1.5


class Delay2(DegradedExpert):
    delay = 2


class Delay3(DegradedExpert):
    delay = 3
