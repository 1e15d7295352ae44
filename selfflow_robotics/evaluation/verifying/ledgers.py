"""Read the ledgers that a report is on, without changing them, and compare them with checksums."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.ledger import (
    EPISODES,
    EpisodeRecord,
    ledger_files,
    parse_record,
    read_complete_lines,
)
from selfflow_robotics.evaluation.protocol import DRAWN, NUM_SEEDS, evaluation_episodes
from selfflow_robotics.evaluation.verifying.checksums import Checksums, line_digest


@dataclass
class VerifiedLedger:
    """The lines of the ledgers of one report or summary."""

    has_checksums: bool
    files: list[Path] = field(default_factory=list)
    records: list[EpisodeRecord] = field(default_factory=list)  # the last one of each episode
    later: list[EpisodeRecord] = field(default_factory=list)  # from lines added since the report
    num_lines: int = 0  # without later ones
    differences: list[str] = field(default_factory=list)

    def text(self) -> str:
        """`episodes.jsonl: 100 lines have their checksums`."""
        names = f"{len(self.files)} ledgers" if len(self.files) > 1 else EPISODES
        how = "have their checksums" if self.has_checksums else "can be read"
        later = f"; {len(self.later)} added since the report" if self.later else ""
        return f"{names}: {self.num_lines} lines {how}{later}"


def read_ledgers(homes: Sequence[Path], base: Path, sums: Checksums | None) -> VerifiedLedger:
    """The ledgers of the results folders `homes`; names in `sums` are relative to `base`.

    Without checksums, all lines count. Raises OSError if a ledger cannot be read.
    """
    ledger = VerifiedLedger(sums is not None)
    digests = (
        {(base / name).resolve(): lines for name, lines in sums.ledgers.items()} if sums else {}
    )
    ledger.files = list(dict.fromkeys(path for home in homes for path in ledger_files(home)))
    known: dict[str, EpisodeRecord] = {}
    for path in ledger.files:
        listed = digests.get(path.resolve(), []) if sums else None
        for number, record in _records(path, listed, ledger.differences):
            if path.parent not in homes and record.video:  # of a shard
                record = replace(record, video=f"{path.parent.name}/{record.video}")
            if listed is not None and number > len(listed):
                ledger.later.append(record)
            else:
                ledger.num_lines += 1
                known[record.key] = record
    ledger.records = list(known.values())
    return ledger


def later_differences(fingerprint: dict[str, Any], ledger: VerifiedLedger) -> Iterator[str]:
    """What differs from what a continued evaluation adds to a ledger: other episodes of the same
    protocol, and those that ended in an error once more."""
    if not ledger.later:
        return
    finished = {record.key for record in ledger.records if record.error is None}
    try:
        planned = _all_episodes(fingerprint, ledger.later[0].task)
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        yield f"{ledger.files[-1]}: the protocol of the lines added since is unknown ({error})"
        return
    for record in ledger.later:
        name = f"{record.policy}'s episode {record.variant} (seed {record.seed})"
        if record.key in finished:
            yield f"{ledger.files[-1]}: expected one line of {name}, found a later one"
        if planned.get((record.variant, record.seed)) != record.options:
            yield f"{ledger.files[-1]}: expected episodes of the protocol, found {name}"
        if record.error is None:
            finished.add(record.key)


def _records(
    path: Path, digests: list[str] | None, differences: list[str]
) -> Iterator[tuple[int, EpisodeRecord]]:
    """(line number, record) of each readable line; what is wrong is added to `differences`."""
    lines, rest = read_complete_lines(path)
    if rest:
        differences.append(
            f"{path}: expected complete lines, found a part of line {len(lines) + 1}"
        )
    if digests is not None and len(lines) < len(digests):
        differences.append(f"{path}: expected {len(digests)} lines, found {len(lines)}")
    for number, line in enumerate(lines, 1):
        digest = line_digest(line)
        if digests is not None and number <= len(digests) and digest != digests[number - 1]:
            expected = digests[number - 1]
            differences.append(
                f"{path} line {number}: expected checksum {expected}, found {digest}"
            )
        try:
            yield number, parse_record(line)
        except ValueError:
            differences.append(f"{path} line {number}: expected an episode, found damage")


def _all_episodes(fingerprint: dict[str, Any], task: str) -> dict[tuple[str, int], dict[str, Any]]:
    """The options of every episode of the protocol, by variant and seed."""
    protocol, seed = fingerprint["protocol"], fingerprint["seed"]
    simulator = fingerprint["simulator"]["simulator"]
    # The longest evaluation of a protocol includes all shorter ones.
    whole = "grid" if protocol in ("quick", "paper") else protocol
    count = NUM_SEEDS if protocol in DRAWN else None
    episodes = evaluation_episodes(get_task(task), simulator, whole, count, seed)
    return {(episode.variant, episode.seed): episode.options for episode in episodes}
