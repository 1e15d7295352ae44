"""Compute the numbers of a report again from the ledger, and compare them with the written ones.

Only what comes from the episodes is computed again. Words around the numbers may change between
versions of this project, so of the pages only numbers are compared: those of the tables, by column,
and those of every other line that differs in nothing but its numbers.
"""

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.evaluation.domain import TITLES
from selfflow_robotics.evaluation.ledger import EpisodeRecord
from selfflow_robotics.evaluation.protocol import Shard, evaluation_episodes
from selfflow_robotics.evaluation.reference_frames import FrameDifference
from selfflow_robotics.evaluation.report import Report
from selfflow_robotics.evaluation.stopping import recomputed
from selfflow_robotics.json_file import read_text

_NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?")
_COMPLETE = ("policies",)  # where a missing or additional key is a difference


def recomputed_report(
    written: dict[str, Any],
    fingerprint: dict[str, Any],
    records: list[EpisodeRecord],
    is_shard: bool = False,
) -> Report:
    """The report on `records`. What is no result, such as the number of episodes asked for and the
    remarks, is taken from the `written` one; `fingerprint` has the settings.

    Raises ValueError if an episode is missing, and KeyError, TypeError, ValueError, AttributeError
    or UserError if `written` or `fingerprint` are not what `eval/simpler.py` writes.
    """
    key = str(fingerprint["simulator"]["simulator"])
    protocol, seed = fingerprint["protocol"], int(fingerprint["seed"])
    task = get_task(records[0].task if records else written["task"])
    left_out, shard = dict(written.get("left_out", {})), written.get("shard")
    frame, answer = written.get("reference_frame"), written.get("sequential")
    policies = list(dict.fromkeys([fingerprint["policy"], *written["policies"]]))
    if "num_episodes" in written:
        planned = evaluation_episodes(task, key, protocol, written["num_episodes"], seed)
        planned = Shard.parse(shard).of(planned) if shard else planned
        episodes = [episode for episode in planned if episode.variant not in left_out]
    elif left_out or is_shard:  # older reports do not say of how many episodes they are a part
        episodes = None
    else:
        rate = written["policies"][policies[0]]["all"]
        total = rate["count"] + rate["errors"]
        episodes = evaluation_episodes(task, key, protocol, total, seed)
    played = {policy: _episodes_of(policy, records, episodes) for policy in policies}
    return Report(
        task=task.name,
        simulator=TITLES.get(key, key),
        protocol=protocol,
        seed=seed,
        variants=tuple(variant for variant in task.variants if variant not in left_out),
        episodes=played,
        out_of_domain=written.get("out_of_domain"),
        left_out=left_out,
        remarks=tuple(written.get("remarks", ())),
        simulator_provenance=fingerprint["simulator"],
        reference_frame=FrameDifference(**frame) if frame else None,
        answer=recomputed(answer, played[policies[0]]) if answer else None,
        policy_provenance=written.get("policy_provenance"),
        num_episodes=written.get("num_episodes"),
        shard=shard,
        published=written.get("published"),
        latency_ms=fingerprint.get("latency_ms"),
    )


def json_differences(written: Any, computed: Any, where: str = "") -> Iterator[str]:
    """`WHERE: expected X, found Y` for each number or text that differs.

    Keys that only one side has are ignored, as versions add and remove some, except within
    "policies".
    """
    if isinstance(written, dict) and isinstance(computed, dict):
        complete = where.split(".")[0] in _COMPLETE and where.count(".") < 2
        for key in dict.fromkeys([*computed, *written]):
            inner = f"{where}.{key}" if where else str(key)
            if key in written and key in computed:
                yield from json_differences(written[key], computed[key], inner)
            elif complete:
                sides = ("nothing", "an entry") if key in written else ("an entry", "nothing")
                yield f"{inner}: expected {sides[0]}, found {sides[1]}"
    elif isinstance(written, list) and isinstance(computed, list | tuple):
        if len(written) != len(computed):
            yield f"{where}: expected {len(computed)} entries, found {len(written)}"
        else:
            for index, pair in enumerate(zip(written, computed, strict=True)):
                yield from json_differences(*pair, f"{where}[{index}]")
    elif not _same(written, computed):
        yield f"{where}: expected {computed!r}, found {written!r}"


def page_differences(written: str, computed: str) -> Iterator[str]:
    """`WHERE: expected X, found Y` for each number of a Markdown page that differs."""
    (old_table, old_lines), (new_table, new_lines) = _parts(written), _parts(computed)
    if len(old_table) != len(new_table):
        yield f"table: expected {len(new_table)} rows, found {len(old_table)}"
    elif new_table:
        columns = [name for name in new_table[0] if name in old_table[0]]
        forms = {_NUMBER.sub("#", name): name for name in old_table[0]}
        for name in new_table[0]:
            if (found := forms.get(_NUMBER.sub("#", name), name)) != name:
                yield f"header: expected '{name}', found '{found}'"
        for old, new in zip(old_table[1:], new_table[1:], strict=True):
            cells = dict(zip(old_table[0], old, strict=False))
            expected = dict(zip(new_table[0], new, strict=True))
            for name in columns:
                if cells.get(name) != expected[name]:
                    row = ", ".join(cell for cell in new[:2] if cell)
                    yield (
                        f"row '{row}', column '{name}': expected '{expected[name]}', found "
                        f"'{cells.get(name)}'"
                    )
    for form, lines in new_lines.items():
        for old, new in zip(old_lines.get(form, ()), lines, strict=False):
            if old != new:
                yield f"expected '{new}', found '{old}'"


def csv_differences(path: Path, computed: str) -> Iterator[str]:
    """`line N, column 'X': expected Y, found Z` for each cell of a CSV file that differs; columns
    that only one side has are ignored, as versions add and remove some."""
    try:
        old, new = (list(csv.reader(io.StringIO(t))) for t in (read_text(path), computed))
    except (OSError, ValueError, csv.Error) as error:
        yield f"expected a table, found damage ({error})"
        return
    if len(old) != len(new):
        yield f"expected {len(new)} lines, found {len(old)}"
        return
    for number, (found, expected) in enumerate(zip(old[1:], new[1:], strict=True), 2):
        cells = dict(zip(old[0], found, strict=False))
        for name, value in zip(new[0], expected, strict=True):
            if name in cells and cells[name] != value:
                yield f"line {number}, column '{name}': expected '{value}', found '{cells[name]}'"


def _episodes_of(
    policy: str, records: list[EpisodeRecord], episodes: list[EpisodeSpec] | None
) -> list[EpisodeRecord]:
    """The records of these episodes, or all. Raises ValueError if one is missing."""
    known = {(r.variant, r.seed): r for r in records if r.policy == policy}
    if episodes is None:
        return list(known.values())
    found = []
    for episode in episodes:
        record = known.get((episode.variant, episode.seed))
        if record is None or record.options != episode.options:
            raise ValueError(
                f"{policy}'s episode {episode.variant} (seed {episode.seed}) is not in the ledger"
            )
        found.append(record)
    return found


def _same(written: Any, computed: Any) -> bool:
    if isinstance(written, bool) or isinstance(computed, bool):
        return written is computed
    if isinstance(written, int | float) and isinstance(computed, int | float):
        return math.isclose(written, computed, rel_tol=1e-9)  # scipy's versions differ by ulps
    return written == computed


def _parts(page: str) -> tuple[list[list[str]], dict[str, list[str]]]:
    """The rows of a page's table without its rule, and its other lines by their form: the line
    without its numbers."""
    table, lines = [], defaultdict(list)
    for line in page.splitlines():
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif line.strip():
            lines[_NUMBER.sub("#", line)].append(line)
    return [row for row in table if set("".join(row)) != {"-"}], lines
