"""What is in a robot data set, and what is wrong with it: the numbers behind `data_page`."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from selfflow_robotics.data.rlds.checks import (
    ACTION_NAMES,
    duplicates,
    frozen,
    gripper,
    outliers,
    still,
    tool_correlation,
)
from selfflow_robotics.data.rlds.schema import BRIDGE, FRACTAL
from selfflow_robotics.data.rlds.survey import Episode, Survey
from selfflow_robotics.envs.tasks.base import GOOGLE_ROBOT, WIDOWX
from selfflow_robotics.evaluation.tables import text_table
from selfflow_robotics.robot.normalize import NormStats

# RLDS stores no control rate. Published: Open X-Embodiment's table of data sets.
CONTROL_HZ = {FRACTAL.name: 3.0, BRIDGE.name: 5.0}
_CAUSE = {
    "shard": "missing or cut short",
    "record": "damaged or without a feature",
    "episode": "left out by training",
    "frame": "damaged",
}
_DEAD_ZONE = 0.1  # stored commands this near to 0, open or closed count as it
_MOST_LISTED = 10


def data_report(found: Survey) -> dict[str, Any]:
    """JSON-able. Episodes are named by their number in the split; units are metres and radians."""
    episodes = found.episodes
    lengths = np.array([len(episode) for episode in episodes])
    report: dict[str, Any] = {
        "data": {
            "directory": str(found.info.directory),
            "name": found.info.name,
            "split": found.split,
            "layout": (found.info.layout or FRACTAL).name,
            "shards": len(found.shards),
            "bytes": found.num_bytes,
            "image_size": found.image_size,
            "control_hz": control_hz(found),
            "provenance": found.provenance,
        },
        "counts": {
            "records": found.num_records,
            "episodes": len(episodes),
            "steps": int(lengths.sum()),
            "instructions": len({episode.instruction for episode in episodes}),
            "success": sum(episode.success is True for episode in episodes),
            "failure": sum(episode.success is False for episode in episodes),
            "unknown": sum(episode.success is None for episode in episodes),
            "disturbed": int(found.disturbed.sum()),
            "frames_decoded": found.frames_decoded,
        },
        "instructions": _instructions(episodes),
        "lengths": _summary(lengths) if episodes else {},
        "actions": _actions(episodes) if episodes else {},
        "gripper": asdict(gripper(episodes)) | {"stored": _stored_gripper(found)},
        "tool_correlation": tool_correlation(episodes),
        "outliers": [asdict(one) for one in outliers(episodes)],
        "still": [asdict(one) for one in still(episodes)],
        "frozen": [asdict(one) for one in frozen(episodes)],
        "duplicates": {
            "episodes": duplicates(episodes, lambda one: (one.actions_hash, one.frame_hash)),
            "actions": duplicates(episodes, lambda one: one.actions_hash),
            "first_frames": duplicates(episodes, lambda one: one.frame_hash),
        },
        "faults": [asdict(fault) for fault in found.faults],
    }
    report["warnings"] = warnings(report)
    return report


def control_hz(found: Survey) -> float | None:
    """Control steps per second, for data sets whose rate is known."""
    if "control_hz" in found.provenance:
        return found.provenance["control_hz"]
    if "simulator" in found.provenance:
        robots = {robot.name: robot for robot in (GOOGLE_ROBOT, WIDOWX)}
        robot = robots.get(str(found.provenance.get("robot", GOOGLE_ROBOT.name)))
        return robot.control_hz if robot else None
    return CONTROL_HZ.get(found.info.name)


def warnings(report: dict[str, Any]) -> list[str]:
    """One line for each kind of trouble, the worst first; none for a clean data set."""
    lines = []
    for kind, count in Counter(fault["kind"] for fault in report["faults"]).items():
        first = next(f["message"] for f in report["faults"] if f["kind"] == kind)
        lines.append(
            first if kind == "data set" else f"{counted(count, kind)} {_CAUSE[kind]}: {first}"
        )
    verdict = report["gripper"]["verdict"]
    if verdict == "reversed":
        lines.append(
            "the gripper is reversed: it opens when the recorded action says close, and the other "
            "way round; check the sign and meaning of the gripper's action"
        )
    elif verdict == "moves without commands":
        lines.append(
            f"{report['gripper']['unexplained']:.0%} of the gripper's recorded motion follows no "
            "command: its action may be a state where changes are expected (+1 close, -1 open)"
        )
    elif verdict == "unclear":
        lines.append("the gripper's recorded motion neither follows its commands nor opposes them")
    axes = [
        name
        for name, value in zip("xyz", report["tool_correlation"], strict=True)
        if value is not None and value < -0.2
    ]
    if axes:
        lines.append(
            f"the tool moves against the recorded action along {', '.join(axes)}; check the frame "
            "and the signs of the displacement"
        )
    for key, words in (
        ("outliers", "actions far outside the data set's range"),
        ("still", "arm and gripper stand still for long"),
        ("frozen", "frozen camera, or the arm moves out of its view"),
    ):
        if found := report[key]:
            worst = found[0]
            lines.append(
                f"{counted(len(found), 'episode')}: {words}; "
                f"the worst is {worst['episode']}, step {worst['step']}"
            )
    same = report["duplicates"]
    if same["episodes"]:
        copies = sum(len(group) - 1 for group in same["episodes"])
        numbers = ", ".join(map(str, same["episodes"][0][:5]))
        lines.append(
            f"{counted(copies, 'episode')} with the actions and first image of another: the first "
            f"group is {numbers}"
        )
    for key, words in (("actions", "the same actions"), ("first_frames", "the same first image")):
        groups = [group for group in same[key] if group not in same["episodes"]]
        if groups:
            numbers = ", ".join(map(str, groups[0][:5]))
            lines.append(
                f"{counted(len(groups), 'group')} of episodes with {words}; the first is {numbers}"
            )
    empty = next((i for i in report["instructions"] if not i["instruction"].strip()), None)
    if empty:
        lines.append(f"{counted(empty['episodes'], 'episode')} without an instruction")
    return lines


def report_text(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    data, counts = report["data"], report["counts"]
    size, rate = data["image_size"], data["control_hz"]
    facts = [
        f"{data['name']} ({data['layout']}'s features), split {data['split']}",
        ", ".join(counted(counts[key], key[:-1]) for key in ("episodes", "steps", "instructions"))
        + f", {counted(data['shards'], 'shard')}, {data['bytes'] / 1e6:.0f} MB",
        f"images {size[0]} x {size[1]} px" if size else "no readable image",
        f"control rate {rate:g} Hz" if rate else "control rate not recorded",
        f"outcome: {counts['success']} success, {counts['failure']} failure, {counts['unknown']} "
        f"unknown; {counts['disturbed']} disturbed",
    ]
    parts = ["\n".join(facts)]
    if counts["episodes"]:
        parts.append(_lengths_line(report["lengths"]))
        parts.append(text_table(action_rows(report)))
        parts.append(gripper_line(report))
        shown = report["instructions"][:_MOST_LISTED]
        rows = [["instruction", "episodes", "success"]]
        rows += [[one["instruction"], str(one["episodes"]), str(one["success"])] for one in shown]
        more = counts["instructions"] - len(shown)
        parts.append(text_table(rows) + (f"\n... and {more} more" if more else ""))
    parts.append(
        "\n".join(f"warning: {line}" for line in report["warnings"]) or "nothing looks wrong"
    )
    return "\n\n".join(parts)


def action_rows(report: dict[str, Any]) -> list[list[str]]:
    """A table of the action statistics, with a header."""
    columns = ("mean", "std", "min", "q01", "q99", "max")
    rows = [["action", *columns]]
    for place, name in enumerate(ACTION_NAMES):
        unit = "m" if place < 3 else "rad" if place < 6 else "1 = open"
        numbers = [f"{report['actions'][column][place]:.4g}" for column in columns]
        rows.append([f"{name} ({unit})", *numbers])
    return rows


def gripper_line(report: dict[str, Any]) -> str:
    """The gripper's convention in words."""
    found = report["gripper"]
    shares = ", ".join(f"{share:.1%} {name}" for name, share in found["stored"].items())
    measured = (
        "its motion is not recorded"
        if found["direction"] is None
        else f"the recorded gripper moves after {found['measured']} of {found['changes']} changes, "
        f"direction {found['direction']:+.2f}, {found['unexplained']:.0%} of its motion unexplained"
    )
    return f"gripper commands: {shares}; {measured}: {found['verdict']}"


def _lengths_line(lengths: dict[str, float]) -> str:
    return "episode lengths: " + ", ".join(f"{key} {value:g}" for key, value in lengths.items())


def _instructions(episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """By instruction, the most frequent first."""
    groups: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        groups[episode.instruction].append(episode)
    rows = [
        {
            "instruction": text,
            "episodes": len(group),
            "steps": sum(map(len, group)),
            "success": sum(one.success is True for one in group),
            "failure": sum(one.success is False for one in group),
        }
        for text, group in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row["episodes"], row["instruction"]))


def _actions(episodes: Sequence[Episode]) -> dict[str, Any]:
    actions = np.concatenate([episode.actions for episode in episodes])
    stats = NormStats.compute(actions)
    table = {key: getattr(stats, key).tolist() for key in ("mean", "std", "q01", "q99")}
    ends = {"min": actions.min(axis=0).tolist(), "max": actions.max(axis=0).tolist()}
    return {"names": list(ACTION_NAMES), **table, **ends}


def _stored_gripper(found: Survey) -> dict[str, float]:
    """The share of each kind of stored command."""
    if not found.episodes:
        return {}
    stored = np.concatenate([episode.gripper_command for episode in found.episodes])
    if found.absolute_gripper:
        names, place = ("closed", "between", "open"), stored - 0.5
        inner = 0.5 - _DEAD_ZONE
    else:
        names, place = ("open (-1)", "no change (0)", "close (+1)"), stored
        inner = _DEAD_ZONE
    shares = ((place < -inner).mean(), (np.abs(place) <= inner).mean(), (place > inner).mean())
    return dict(zip(names, map(float, shares), strict=True))


def _summary(values: np.ndarray) -> dict[str, float]:
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
    names = ("min", "q25", "median", "q75", "max")
    return dict(zip(names, quantiles, strict=True)) | {"mean": round(float(values.mean()), 2)}


def counted(count: int, noun: str) -> str:
    """A number with its noun, which gets an s for the plural."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
