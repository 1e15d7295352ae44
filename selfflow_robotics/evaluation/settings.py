"""What an evaluation plays and where: the settings that all of its commands share."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from selfflow_robotics.envs.spec import TIMEOUT_S, SimplerInstall
from selfflow_robotics.errors import UserError, check_least, unknown
from selfflow_robotics.evaluation.domain import Simulator
from selfflow_robotics.evaluation.protocol import Protocol, Shard
from selfflow_robotics.evaluation.stopping import SequentialTest
from selfflow_robotics.rng import check_seed
from selfflow_robotics.rollouts.clock import Clock

Stop = Literal["never", "sequential"]
ClockKind = Literal["paused", "real"]
_CHOICES = {
    "sim": get_args(Simulator),
    "protocol": get_args(Protocol),
    "stop": get_args(Stop),
    "clock": get_args(ClockKind),
}
MOST_LATENCY_MS = 60_000


@dataclass(frozen=True, kw_only=True)
class EpisodesConfig:
    """What to play and where; see configs/simpler.yaml."""

    sim: Simulator = "auto"
    renderer: Literal["ray", "gl"] | None = None
    protocol: Protocol = "auto"
    num_episodes: int | None = None
    seed: int = 0
    shard: str | None = None
    stop: Stop = "never"
    target: float | None = None
    against: str | None = None
    clock: ClockKind = "paused"
    latency_ms: float | None = None  # for clock=real; None: measured at each answer of the policy
    probe: bool = True
    videos: int = 3
    processes: int | None = None
    timeout_s: float = TIMEOUT_S
    simpler: SimplerInstall = field(default_factory=SimplerInstall)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"{name}: {unknown('value', str(value), choices)}")
        if self.shard is not None:
            Shard.parse(self.shard)
        check_least(self, 1, "num_episodes", "processes")
        check_seed(self.seed)
        if self.videos < 0:
            raise UserError(f"videos must not be negative, got {self.videos}")
        if self.stop == "never" and (self.target is not None or self.against is not None):
            raise UserError("target and against are for stop=sequential; add it or remove them")
        if self.stop == "sequential" and self.shard is not None:
            raise UserError("stop=sequential looks at all episodes; remove shard")
        self._check_clock()

    def _check_clock(self) -> None:
        if self.clock == "paused" and self.latency_ms is not None:
            raise UserError("latency_ms is for clock=real; add it or remove latency_ms")
        if self.latency_ms is not None and not 0 <= self.latency_ms <= MOST_LATENCY_MS:
            raise UserError(
                f"latency_ms must be from 0 to {MOST_LATENCY_MS}, got {self.latency_ms:g}"
            )
        if self.measures_latency and (self.processes or 1) > 1:
            raise UserError(
                "clock=real measures the latency with one simulator; remove processes, or give "
                "latency_ms"
            )

    @property
    def measures_latency(self) -> bool:
        """Whether results depend on how fast this computer is."""
        return self.clock == "real" and self.latency_ms is None

    def real_clock(self) -> Clock | None:
        """The clock of clock=real; None: it waits for the policy."""
        if self.clock == "paused":
            return None
        return Clock(None if self.latency_ms is None else self.latency_ms / 1000)

    def clock_settings(self) -> dict[str, Any]:
        """What results depend on, for their fingerprint."""
        if self.clock == "paused":
            return {}
        latency_ms = None if self.latency_ms is None else float(self.latency_ms)
        return {"clock": self.clock, "latency_ms": latency_ms}

    def sequential_test(self) -> SequentialTest | None:
        """The question of stop=sequential. Raises UserError if it is not a single one."""
        if self.stop == "never":
            return None
        return SequentialTest.of(self.target, self.against)
