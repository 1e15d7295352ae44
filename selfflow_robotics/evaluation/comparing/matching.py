"""Find the results of the policies to compare, and pair what they played alike.

Only the same episodes are paired: same task, simulator, protocol, variant, seed and options, from
the same initial state. What cannot be paired is refused with a line that says why.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.evaluation.ledger import (
    FINGERPRINT,
    OPTIONAL_SETTINGS,
    EpisodeRecord,
    Ledger,
    common_episodes,
)
from selfflow_robotics.json_file import read_json

# What may differ between two results of the same simulator: the computer, and what the policy sees.
# It is remarked, since part of a difference may come from it.
MAY_DIFFER = ("image_size", "renderer", "machine", "numpy", "python", "vulkan_devices")


class World(NamedTuple):
    """Where episodes are played."""

    task: str
    protocol: str
    simulator: str  # its physics and versions, as JSON


@dataclass(frozen=True)
class Evaluation:
    """The results of one policy on one task."""

    folder: Path
    task: str
    protocol: str
    settings: dict[str, Any]  # of the policy and the episodes
    simulator: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Evaluation":
        """Read evaluation.json. Raises UserError if it is damaged or from another command."""
        path = folder / FINGERPRINT
        try:
            settings = read_json(path)
            simulator = settings.pop("simulator")
            found = cls(folder, simulator["task"], settings["protocol"], settings, simulator)
            named = (found.task, found.protocol, settings["policy"])
            if not (all(isinstance(name, str) for name in named) and type(found.seed) is int):
                raise TypeError("not names and a seed")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path} is damaged or not from eval/simpler.py; leave {folder} out"
            ) from None
        return found

    @property
    def world(self) -> World:
        """What must be equal in two results to compare, except the seed."""
        fixed = {key: value for key, value in self.simulator.items() if key not in MAY_DIFFER}
        return World(self.task, self.protocol, json.dumps(fixed, sort_keys=True))

    @property
    def seed(self) -> int:
        """Determines the episodes."""
        return self.settings["seed"]

    @property
    def player(self) -> dict[str, Any]:
        """The settings of the policy, which do not change the episodes."""
        return {k: v for k, v in self.settings.items() if k not in ("protocol", "seed")}

    def matches(self, key: str, value: str) -> bool:
        """Whether a setting has the value, given as text; a checkpoint needs its first digits."""
        known = {**self.simulator, **self.settings}
        found = known.get(key, OPTIONAL_SETTINGS.get(key))
        if key == "checkpoint" and isinstance(found, str):
            return found.startswith(value)
        if found is None or found is False:
            return value in ("null", "false")
        # Settings at their defaults are missing; they can be chosen as null, too.
        return value in (str(found), json.dumps(found)) or (value == "null" and key not in known)

    def records(self) -> list[EpisodeRecord]:
        """The episodes of the evaluated policy. Raises UserError if the ledger is damaged."""
        _, ledger = Ledger.read(self.folder)
        return [record for record in ledger.records if record.policy == self.settings["policy"]]


@dataclass(frozen=True)
class Candidate:
    """One of the policies to compare, with all of its results."""

    label: str  # A, B, C, ...
    given: str  # as the user names it
    evaluations: tuple[Evaluation, ...]

    @classmethod
    def find(cls, label: str, given: str) -> "Candidate":
        """The results in FOLDER or FOLDER@KEY:VALUE,...: a results folder, a folder of those, or a
        run folder. Raises UserError if there are none."""
        path, _, chosen = given.rpartition("@")
        if not path or ":" not in chosen or Path(given).exists():
            path, chosen = given, ""
        folders = _results_folders(Path(path))
        if not folders:
            what = "has no results of eval/simpler.py" if Path(path).is_dir() else "is no folder"
            raise UserError(
                f"{path} {what}; give a results folder (with episodes.jsonl), or RUN or RUN/eval"
            )
        found = [Evaluation.open(folder) for folder in folders]
        known = {name for one in found for name in (*one.settings, *one.simulator)}
        for pair in chosen.split(",") if chosen else []:
            key, _, value = pair.partition(":")
            if key not in known | OPTIONAL_SETTINGS.keys():
                raise unknown("setting", key, known | OPTIONAL_SETTINGS.keys())
            found = [one for one in found if one.matches(key, value)]
        if not found:
            raise UserError(f"{path} has no results with {chosen.replace(',', ' and ')}")
        return cls(label, given, tuple(found))

    def of(self, world: World, seeds: Collection[int]) -> list[Evaluation]:
        """Its results with these seeds: one, or several with a seed each. Raises UserError if they
        are not of one policy."""
        found = [one for one in self.evaluations if one.world == world and one.seed in seeds]
        first, task = found[0], world.task
        for other in found[1:]:
            if other.player != first.player:
                raise self._ambiguous(task, first.player, other.player)
            are_shards = other.folder.parent == first.folder.parent and all(
                one.folder.name.startswith("shard_") for one in (first, other)
            )
            if other.settings == first.settings and not are_shards:
                raise UserError(
                    f"{self.given} has the same evaluation of {task} twice, in {first.folder} and "
                    f"{other.folder}; name one of them"
                )
        return found

    def _ambiguous(self, task: str, first: dict[str, Any], other: dict[str, Any]) -> UserError:
        key = differing([first, other])[0]
        usual = OPTIONAL_SETTINGS.get(key)
        values = [short(key, settings.get(key, usual)) for settings in (first, other)]
        # A value with one of the selection's separators cannot be selected.
        easy = not any(mark in values[0] for mark in ",:@ ")
        advice = f"{self.given}{',' if '@' in self.given else '@'}{key}:{values[0]}"
        return UserError(
            f"{self.given} has results of {task} with {key} {values[0]} and {values[1]}; choose "
            + (f"one, for example {advice}" if easy else "one of its folders")
        )


def reports_beside(folder: Path) -> Iterator[tuple[Evaluation, dict[str, Any]]]:
    """The evaluations in the folders beside this one, itself included, with their report.json.
    Unfinished and damaged ones are left out."""
    for path in sorted(folder.parent.glob(f"*/{FINGERPRINT}")):
        try:
            yield Evaluation.open(path.parent), read_json(path.parent / "report.json")
        except (UserError, OSError, ValueError):
            continue


class Match(NamedTuple):
    """The episodes of one task that two candidates both played."""

    task: str
    protocol: str
    pairs: list[tuple[EpisodeRecord, EpisodeRecord]]
    evaluations: tuple[list[Evaluation], list[Evaluation]]
    counts: tuple[int, int]  # episodes of each, common or not
    errors: tuple[int, int]  # of these failed to run


@dataclass
class Matches:
    """What two candidates have in common, and lines about what they do not."""

    found: list[Match] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def match_results(first: Candidate, second: Candidate) -> Matches:
    """Pair the results of two candidates by task.

    Raises UserError if nothing can be paired, if it is unclear which results are meant, or if an
    episode does not start in the same state for both.
    """
    result, seen = Matches(), set()
    for world in _shared_worlds(first, second):
        try:
            result.found.append(_match(first, second, world))
        except _NoEpisodes as error:
            result.remarks.append(str(error))
            continue
        if world[:2] in seen:
            raise UserError(
                f"{first.given} and {second.given} have results of {world.task} in several "
                "versions of the simulator; name the folders of one"
            )
        seen.add(world[:2])
    if not result.found:
        raise UserError(result.remarks[0])
    tasks = [{one.task for one in candidate.evaluations} for candidate in (first, second)]
    for candidate, missing in ((first, tasks[0] - tasks[1]), (second, tasks[1] - tasks[0])):
        if missing:
            result.remarks.append(f"only {candidate.label} played {', '.join(sorted(missing))}")
    return result


def comparable(first: Candidate, second: Candidate) -> list[Evaluation]:
    """The results of `second` to compare with those of `first`, which may have no episodes yet.

    Raises UserError if there are none, or if it is unclear which are meant.
    """
    worlds = _shared_worlds(first, second)
    return [one for world in worlds for one in _sides(first, second, world)[1]]


def _shared_worlds(first: Candidate, second: Candidate) -> list[World]:
    worlds = [dict.fromkeys(e.world for e in one.evaluations) for one in (first, second)]
    shared = [world for world in worlds[0] if world in worlds[1]]
    if not shared:
        raise _nothing_shared(first, second)
    return shared


class _NoEpisodes(UserError):
    """Same task, simulator and protocol, but no episode in common."""


def _sides(
    first: Candidate, second: Candidate, world: World
) -> tuple[list[Evaluation], list[Evaluation]]:
    """Each candidate's results with the seeds that both have."""
    seeds = [
        {one.seed for one in candidate.evaluations if one.world == world}
        for candidate in (first, second)
    ]
    common, task = seeds[0] & seeds[1], world.task
    if not common:
        raise _NoEpisodes(
            f"{first.label} and {second.label} have no episodes of {task} in common: {first.label} "
            f"has seed {_listed(seeds[0])}, {second.label} seed {_listed(seeds[1])}; evaluate both "
            "with the same seed="
        )
    sides = (first.of(world, common), second.of(world, common))
    same = {e.folder.resolve() for e in sides[0]} & {e.folder.resolve() for e in sides[1]}
    if same:
        raise UserError(
            f"{first.given} and {second.given} are both {min(same).name}; give two different "
            "results"
        )
    return sides


def _match(first: Candidate, second: Candidate, world: World) -> Match:
    sides, task = _sides(first, second, world), world.task
    records = [[record for one in side for record in one.records()] for side in sides]
    pairs = common_episodes(*records)
    if not pairs:
        raise _NoEpisodes(
            f"{first.label} and {second.label} have no episodes of {task} in common, apart from "
            "those that failed to run; repeat their evaluations to play the rest"
        )
    for one, other in pairs:
        if None not in (one.start, other.start) and one.start != other.start:
            raise UserError(
                f"{task}: the episode {one.variant}, seed {one.seed} starts in another state for "
                f"{first.label} than for {second.label}; evaluate both with the same version"
            )
    played = [{record.episode: record for record in side}.values() for side in records]
    errors = [sum(record.error is not None for record in side) for side in played]
    counts = (len(played[0]), len(played[1]))
    return Match(task, world.protocol, pairs, sides, counts, (errors[0], errors[1]))


def _nothing_shared(first: Candidate, second: Candidate) -> UserError:
    """What differs, in the two results that differ least."""
    both = f"{first.label} and {second.label}"
    same_task = [
        (one, other)
        for one in first.evaluations
        for other in second.evaluations
        if one.task == other.task
    ]
    if not same_task:
        tasks = [_listed(e.task for e in candidate.evaluations) for candidate in (first, second)]
        return UserError(
            f"{both} have no task in common: {first.label} played {tasks[0]}, {second.label} "
            f"{tasks[1]}; evaluate both on the same tasks"
        )
    one, other = min(same_task, key=lambda pair: pair[0].protocol != pair[1].protocol)
    if one.protocol != other.protocol:
        return UserError(
            f"{both} played {one.task} by different protocols, {one.protocol} and "
            f"{other.protocol}; evaluate {second.label} with protocol={one.protocol}"
        )
    keys = [key for key in differing([one.simulator, other.simulator]) if key not in MAY_DIFFER]
    # The name says more than the versions that differ because of it.
    key = "simulator" if "simulator" in keys else keys[0]
    values = [short(key, e.simulator.get(key)) for e in (one, other)]
    return UserError(
        f"{both} played {one.task} in different simulators ({key} {values[0]} and {values[1]}); "
        "evaluate one again where the other was"
    )


def _results_folders(path: Path) -> list[Path]:
    """The folders with an evaluation.json that a user can mean by `path`, without the shards of
    another one."""
    patterns = ("", "shard_*/", "*/", "*/shard_*/", "eval/*/", "eval/*/shard_*/")
    found = dict.fromkeys(
        file.parent for one in patterns for file in sorted(path.glob(f"{one}{FINGERPRINT}"))
    )
    return [folder for folder in found if folder.parent not in found]


def differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all."""
    return [
        key
        for key in dict.fromkeys(key for one in settings for key in one)
        if any(one.get(key) != settings[0].get(key) for one in settings)
    ]


def short(key: str, value: Any) -> str:
    """A setting's value as text; digests by their first digits."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:8] if key == "checkpoint" or key.endswith("sha256") else text


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values}))
