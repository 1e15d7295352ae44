"""How a policy's action chunks become the actions that a robot executes (docs/execution.md).

`open_loop` and `receding` execute a chunk, or its first `replan_steps` actions, and then observe
again (`chunking`). `rtc` does the same, with chunks that continue one another. `ensemble` observes
at every step and averages all chunks that plan it (`ensemble`). `streaming` observes at every step
and denoises each action a little at each (`streaming`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.policies.chunk_sampler import ChunkSampler, Seen
from selfflow_robotics.policies.chunking import Chunking
from selfflow_robotics.policies.ensemble import Ensemble
from selfflow_robotics.policies.streaming import Streaming

Mode = Literal["receding", "open_loop", "rtc", "ensemble", "streaming"]
MODES: tuple[Mode, ...] = get_args(Mode)
MAX_DECAY = 100  # e^-100: all but the oldest prediction have no weight


class Execution(Protocol):
    """Keeps what an episode needs between observations, for episodes in numbered slots.

    An episode depends only on its seed and observations.
    """

    steps: int  # actions between observations

    def begin(self, slot: int, seed: int) -> None:
        """A new episode starts in `slot`."""
        ...

    def act(self, slots: Sequence[int], seen: Sequence[Seen]) -> list[np.ndarray]:
        """The actions before the next observation, per slot: policy vectors [steps, 7].

        An exception leaves all episodes as they were.
        """
        ...


@dataclass(frozen=True)
class ExecutionConfig:
    """Settings of an execution.

    `delay`: control steps from an observation until the first action that it can influence, as if
    the network needed that long; until then, the robot executes what was planned before. The first
    observation of an episode is free. `ensemble_decay`: m of ACT's weights exp(-m i), where i = 0
    is the oldest prediction.
    """

    mode: Mode = "receding"
    replan_steps: int = 6
    delay: int = 0
    ensemble_decay: float = 0.01

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown("execution", self.mode, MODES)
        if self.delay < 0:
            raise UserError(f"delay must be at least 0 steps, got {self.delay}")
        if self.delay and self.mode in ("open_loop", "streaming"):
            raise UserError(f"execution={self.mode} has no delay; remove delay={self.delay}")
        if self.ensemble_decay != ExecutionConfig.ensemble_decay and self.mode != "ensemble":
            raise UserError(
                f"ensemble_decay is for execution=ensemble; remove it, or execution={self.mode}"
            )
        if not abs(self.ensemble_decay) <= MAX_DECAY:
            raise UserError(
                f"ensemble_decay must be within +-{MAX_DECAY}, got {self.ensemble_decay:g}"
            )

    def check_real_time(self) -> None:
        """Raise UserError if clock=real, which has a latency of its own, cannot execute this."""
        if self.mode not in ("receding", "open_loop"):
            raise UserError(
                f"clock=real executes chunks by receding or open_loop, not {self.mode}; use delay= "
                "with a clock that waits"
            )
        if self.delay:
            raise UserError(f"clock=real has a latency of its own; remove delay={self.delay}")

    def build(self, sampler: ChunkSampler) -> Execution:
        """The execution. Raises UserError if it does not fit the network's chunks."""
        match self.mode:
            case "open_loop":
                return Chunking(sampler, sampler.horizon)
            case "receding":
                return Chunking(sampler, self.replan_steps, self.delay)
            case "rtc":
                return Chunking(sampler, self.replan_steps, self.delay, inpaints=True)
            case "ensemble":
                return Ensemble(sampler, self.delay, self.ensemble_decay)
            case "streaming":
                return Streaming(sampler)
