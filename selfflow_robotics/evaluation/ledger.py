"""The progress of an evaluation on disk: one JSON line per episode, safe against crashes.

`<folder>/evaluation.json` has the fingerprint of what is evaluated, `<folder>/episodes.jsonl` the
episodes. Opening an existing ledger resumes it, but only with the same fingerprint, so that
episodes of different checkpoints or simulators never mix. A shard of an evaluation is a ledger of
its own in a subfolder; opening the whole includes the episodes of its shards.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args, get_origin, get_type_hints

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.results import check_settings, write_whole, writing
from selfflow_robotics.json_file import read_json
from selfflow_robotics.locks import hold

FINGERPRINT, EPISODES = "evaluation.json", "episodes.jsonl"

# Settings that a fingerprint has only if they are not the default, as older ones do not have them:
# those of a network, and of any policy.
NETWORK_SETTINGS: dict[str, Any] = {
    "extrapolation": None,
    "joint": False,
    "instruction": None,
    "execution": "receding",
    "delay": 0,
    "ensemble_decay": 0.01,
    "solver": "euler",
    "precision": "fp32",
    "compile": False,
}
OPTIONAL_SETTINGS = {**NETWORK_SETTINGS, "clock": "paused", "latency_ms": None}

# When an episode counts as a success. SIMPLER counts the last step. Evaluations that stop at the
# first success ("early_stop") count the same episodes as "any_step": what follows is not played.
SuccessRule = Literal["last_step", "any_step", "early_stop"]


@dataclass(frozen=True)
class EpisodeRecord:
    """The outcome of one episode of one policy; one line of episodes.jsonl."""

    policy: str
    task: str
    variant: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    success: bool = False  # at the last step, as SIMPLER counts
    success_at_any_step: bool = False
    steps: int = 0
    error: str | None = None  # why the episode failed to run; not a failure of the policy
    wall_s: float = 0.0
    video: str | None = None  # relative to the folder
    start: str | None = None  # digest of the initial state; equal for equal states
    picture: str | None = None  # digest of the first image and instruction, if the policy looks
    failure: str | None = None  # how it failed (`Task.failure`); None for a success or an error
    # With clock=real: of each answer of the policy, and how many steps the robot held still.
    latencies_ms: list[float] | None = None
    held_steps: int | None = None

    @property
    def key(self) -> str:
        """Identifies policy and episode."""
        return _key(self.policy, self._spec)

    @property
    def episode(self) -> str:
        """Identifies the episode, whoever plays it."""
        return episode_key(self._spec)

    @property
    def _spec(self) -> EpisodeSpec:
        return EpisodeSpec(self.task, self.variant, self.seed, self.options)

    def succeeded(self, rule: SuccessRule = "last_step") -> bool:
        """Whether the episode counts as a success."""
        return self.success if rule == "last_step" else self.success_at_any_step


def episode_key(episode: EpisodeSpec) -> str:
    """Identifies the episode, as `EpisodeRecord.episode` does."""
    return _key("", episode)


def _key(policy: str, episode: EpisodeSpec) -> str:
    parts = [policy, episode.task, episode.variant, episode.seed, episode.options]
    return json.dumps(parts, sort_keys=True)


def common_episodes(
    first: Iterable[EpisodeRecord], second: Iterable[EpisodeRecord]
) -> list[tuple[EpisodeRecord, EpisodeRecord]]:
    """The episodes that two policies both played without an error, each once, in the first one's
    order."""
    played = [
        {record.episode: record for record in records if record.error is None}
        for records in (first, second)
    ]
    return [(one, played[1][key]) for key, one in played[0].items() if key in played[1]]


class Ledger:
    """The episodes of one evaluation. Open it with `Ledger.open`."""

    def __init__(self, folder: Path, records: Iterable[EpisodeRecord]) -> None:
        self.folder = folder
        self._records = {record.key: record for record in records}

    @classmethod
    def open(cls, folder: Path, fingerprint: dict[str, Any]) -> "Ledger":
        """Start a ledger in `folder`, or resume the one there.

        `fingerprint` (JSON-able) names everything the results depend on. Raises UserError if the
        folder's differs, if another process is using it, or if it cannot be written.
        """
        fingerprint = json.loads(json.dumps(fingerprint))
        path = folder / FINGERPRINT
        try:
            folder.mkdir(parents=True, exist_ok=True)
            hold(folder)
            if path.exists():
                check_settings(path, fingerprint, "an evaluation")
            else:
                write_whole(path, json.dumps(fingerprint, indent=2, sort_keys=True) + "\n")
            records = _read_all(folder, fingerprint, repair=True)
        except OSError as error:
            raise UserError(f"cannot write the evaluation to {folder}: {error.strerror}") from None
        return cls(folder, records)

    @classmethod
    def read(cls, folder: Path) -> tuple[dict[str, Any], "Ledger"]:
        """(fingerprint, ledger) of an evaluation, which may be running; nothing is written.

        Raises UserError if the folder has none, or if it is damaged.
        """
        path = folder / FINGERPRINT
        try:
            fingerprint = read_json(path)
            if not isinstance(fingerprint, dict):
                raise ValueError("not an object")
            return fingerprint, cls(folder, _read_all(folder, fingerprint, repair=False))
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is missing; evaluate there first") from None
        except OSError as error:
            raise UserError(f"cannot read {folder}: {error.strerror}") from None
        except ValueError:
            raise UserError(f"{path} is damaged; evaluate again in another folder") from None

    @property
    def records(self) -> list[EpisodeRecord]:
        """The last record of each episode, in order of first appearance."""
        return list(self._records.values())

    def add(self, record: EpisodeRecord) -> None:
        """Append the record; it is on disk when this returns.

        Raises UserError if it cannot be written; earlier episodes are kept.
        """
        line = json.dumps(asdict(record), sort_keys=True) + "\n"
        with (
            writing(self.folder),
            (self.folder / EPISODES).open("ab", buffering=0) as file,
        ):
            size = file.tell()
            try:
                _write_all(file, line.encode())
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)  # a partial line would be damage
                raise
        self._records[record.key] = record

    def missing(self, policy: str, episodes: Iterable[EpisodeSpec]) -> list[EpisodeSpec]:
        """The episodes still to play: new ones and those that ended in an error."""
        return [
            episode
            for episode in episodes
            if (record := self._records.get(_key(policy, episode))) is None or record.error
        ]

    def of(self, policy: str, episodes: Iterable[EpisodeSpec]) -> list[EpisodeRecord]:
        """The existing records of `policy` for `episodes`, in their order."""
        found = (self._records.get(_key(policy, episode)) for episode in episodes)
        return [record for record in found if record is not None]


def _write_all(file: BinaryIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _read_all(folder: Path, fingerprint: dict[str, Any], repair: bool) -> list[EpisodeRecord]:
    """The records of a folder and its shards; see `_read`."""
    shards = [_shard(path, fingerprint, repair) for path in sorted(folder.glob("shard_*"))]
    return [*chain(*shards), *_read(folder / EPISODES, repair)]


def _shard(folder: Path, fingerprint: dict[str, Any], repair: bool) -> list[EpisodeRecord]:
    """The records of a shard, as records of the folder that it is in."""
    check_settings(folder / FINGERPRINT, fingerprint, "an evaluation")
    return [
        replace(record, video=record.video and f"{folder.name}/{record.video}")
        for record in _read(folder / EPISODES, repair)
    ]


def _read(path: Path, repair: bool) -> list[EpisodeRecord]:
    """The records in the file without a truncated last line, which `repair` removes from it."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if repair and whole < len(content):
        os.truncate(path, whole)
    records = []
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            records.append(parse_record(line))
        except ValueError:
            raise UserError(
                f"{path} line {number} is damaged; remove that line to resume"
            ) from None
    return records


def parse_record(line: bytes) -> EpisodeRecord:
    """The record in a line of episodes.jsonl. Raises ValueError if it is damaged."""
    try:
        record = EpisodeRecord(**json.loads(line))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    for name, hint in get_type_hints(EpisodeRecord).items():
        value = getattr(record, name)
        kinds = [get_origin(part) or part for part in get_args(hint) or (hint,)]
        if get_origin(hint) is dict:
            kinds = [dict]
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            raise ValueError(f"{name} is {type(value).__name__}")
    return record


def ledger_files(folder: Path) -> list[Path]:
    """The existing ledgers of a results folder in the order in which `Ledger.open` reads them:
    those of its shards, then its own. Later records replace earlier ones."""
    files = [*(shard / EPISODES for shard in sorted(folder.glob("shard_*"))), folder / EPISODES]
    return [path for path in files if path.is_file()]


def read_complete_lines(path: Path) -> tuple[list[bytes], bytes]:
    """The lines of a ledger without their ends, and what follows the last line: an unfinished
    one, or nothing. Unlike `Ledger.open`, it changes nothing. Raises OSError."""
    *lines, rest = path.read_bytes().split(b"\n")
    return lines, rest
