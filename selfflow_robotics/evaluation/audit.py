"""Count the different initial states that an evaluation played.

A success rate over N episodes only says what it claims if the N initial states differ. Simulators
can break this silently: an environment that is built anew for every episode and reset without the
episode's seed plays one state N times.

An episode repeats an earlier one if either digest of its line in the ledger is equal:

- `start`: object poses, robot joints, drawers, the robot's colour and the instruction, as the
  simulator reports them.
- `picture`: the first camera image and instruction, as the policy gets them. It does not rely on
  what the simulator reports, so it also finds a colour or pose that is reported but not shown.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.ledger import EpisodeRecord
from selfflow_robotics.evaluation.protocol import DRAWN


@dataclass(frozen=True)
class InitialStates:
    """`different` of the initial states of `count` episodes are different."""

    count: int
    different: int

    @classmethod
    def of(cls, records: Iterable[EpisodeRecord]) -> "InitialStates":
        """The count over one policy's episodes; those that did not start are left out."""
        started = [record for record in records if record.start is not None]
        return cls(len(started), len(started) - sum(1 for _ in repetitions(started)))

    @property
    def repeated(self) -> int:
        """How many episodes began in the state of an earlier one."""
        return self.count - self.different

    def text(self) -> str:
        """`60 of 60 initial states differ`."""
        return f"{self.different} of {self.count} initial states differ"


@dataclass
class Audit:
    """Refuses the first episode that repeats an initial state, so that an evaluation with repeated
    states stops within a few episodes instead of after hours.

    The protocols that draw initial states at random make no such promise and are only counted.
    """

    protocol: str
    _first: dict[str, EpisodeRecord] = field(default_factory=dict)

    def add(self, record: EpisodeRecord) -> None:
        """Raise UserError if the episode began like an earlier one of the same policy."""
        earlier = _seen(self._first, record)
        if earlier is not None and self.protocol not in DRAWN:
            raise UserError(
                f"{record.task}: episodes {_name(earlier)} and {_name(record)} start from the same "
                f"initial state, but all of protocol={self.protocol} must differ; this is a bug of "
                "the simulator or task"
            )


def repetitions(
    records: Iterable[EpisodeRecord],
) -> Iterator[tuple[EpisodeRecord, EpisodeRecord]]:
    """(earlier, later) for each record of one policy that repeats an earlier initial state."""
    first: dict[str, EpisodeRecord] = {}
    for record in records:
        if (earlier := _seen(first, record)) is not None:
            yield earlier, record


def _seen(first: dict[str, EpisodeRecord], record: EpisodeRecord) -> EpisodeRecord | None:
    """The earlier record with a digest of `record`, whose digests are added to `first`."""
    digests = [digest for digest in (record.start, record.picture) if digest is not None]
    earlier = next((first[digest] for digest in digests if digest in first), None)
    for digest in digests:
        first.setdefault(digest, record)
    return earlier


def _name(record: EpisodeRecord) -> str:
    return f"{record.variant} (seed {record.seed})"
