"""A clock that runs on while the policy computes, as a robot's does (`clock=real`).

A simulator waits for its policy. With this clock, the answer to an observation comes late, by its
latency in control steps, and meanwhile the robot goes on with what the previous chunk has planned.
Where nothing is planned any more, and before the first answer, it holds still.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from selfflow_robotics.robot.actions import ACTION_DIM


@dataclass(frozen=True)
class Clock:
    """`latency_s` of every answer of the policy; None: measured at each of them, one at a time."""

    latency_s: float | None = None


@dataclass
class Timeline:
    """What one episode executes.

    A fraction of a control step is not lost: it is added to the latency of the next answer. A chunk
    is a plan from its observation on, so as many of its actions are left out as the previous chunk
    has moved the robot meanwhile; while it holds still, no action is left out.
    """

    latencies_s: list[float] = field(default_factory=list)
    held_steps: int = 0  # in which the robot held still
    _behind: float = 0.0  # control steps, below 1
    _planned: np.ndarray = field(default_factory=lambda: np.zeros((0, ACTION_DIM), np.float32))

    def actions(
        self, chunk: np.ndarray, latency_s: float, hz: float, replan_steps: int | None, left: int
    ) -> np.ndarray:
        """The actions float32 [n, 7], n >= 1, from the observation that `chunk` [h, 7] answers to
        the next one.

        Args:
            replan_steps: steps from an observation to the next; None: those of the chunk. The next
                one is later if the answer comes later, or if the robot held still.
            left: control steps that the episode still has, at least 1; n is at most this.
        """
        self.latencies_s.append(latency_s)
        behind = self._behind + latency_s * hz
        late = math.floor(behind + 1e-9)
        self._behind = max(0.0, behind - late)
        before = self._planned[:late]
        end = max(len(before), len(chunk) if replan_steps is None else replan_steps)
        held = min(late, left) - min(len(before), left)
        self.held_steps += held
        still = np.zeros((min(late - len(before), left), ACTION_DIM), np.float32)
        executed = np.concatenate([before, still, chunk[len(before) : end]])[:left]
        self._planned = chunk[end:]
        return executed
