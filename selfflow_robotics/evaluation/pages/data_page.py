"""A robot data set as one HTML page without external files."""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from selfflow_robotics.data.rlds.pictures import JPEG_START, decode_picture
from selfflow_robotics.data.rlds.survey import Episode, Survey
from selfflow_robotics.evaluation.pages.data_charts import (
    action_charts,
    gripper_charts,
    instruction_chart,
    length_chart,
)
from selfflow_robotics.evaluation.pages.data_report import action_rows, counted, gripper_line
from selfflow_robotics.evaluation.pages.template import fill

MOST_ROWS = 200  # of a table of findings; report.json has all
SUSPECTS = 3  # episodes shown per kind of finding


@dataclass(frozen=True)
class Strip:
    """The first, middle and last image of an episode."""

    caption: str
    instruction: str
    images: list[str | None]  # data URLs; None for a damaged image


def page_html(found: Survey, report: dict[str, Any], num_episodes: int = 12) -> str:
    """The page's HTML, with pictures of so many episodes; `report` is that of `data_report`."""
    return fill(
        "data_page.html",
        report=report,
        plot_config={"displayModeBar": False, "responsive": True},
        facts=_facts(report),
        sections=list(_sections(found, report)) if found.episodes else [],
        action_rows=action_rows(report) if found.episodes else [],
        gripper=gripper_line(report) if found.episodes else "",
        strips=[_strip(one) for one in choose_episodes(found.episodes, num_episodes)],
        suspects=_suspects(found, report),
        provenance=json.dumps(report["data"]["provenance"], indent=1),
        most_rows=MOST_ROWS,
    )


def choose_episodes(episodes: Sequence[Episode], count: int) -> list[Episode]:
    """`count` episodes spread over the data set, of as many different instructions as possible."""
    by_instruction: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_instruction.setdefault(episode.instruction, []).append(episode)
    groups = sorted(by_instruction.values(), key=lambda group: -len(group))
    shares = [0] * len(groups)
    for _ in range(min(count, len(episodes))):
        # One more of the group with the fewest that has any left.
        left = [place for place, group in enumerate(groups) if shares[place] < len(group)]
        shares[min(left, key=shares.__getitem__)] += 1
    chosen = []
    for group, share in zip(groups, shares, strict=True):
        places = np.linspace(0, len(group) - 1, share).astype(int)
        chosen += [group[place] for place in places]
    return chosen


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(value, what it is) of each number at the top."""
    data, counts = report["data"], report["counts"]
    size, rate = data["image_size"], data["control_hz"]
    facts = [
        *(
            (f"{counts[key]:,}", key if counts[key] != 1 else key[:-1])
            for key in ("episodes", "steps", "instructions")
        ),
        (f"{size[0]} x {size[1]}" if size else "none", "image size, px"),
        (f"{rate:g} Hz" if rate else "unknown", "control rate"),
    ]
    if rate:
        facts.append((f"{counts['steps'] / rate / 3600:.2f}", "hours"))
    told = counts["success"] + counts["failure"]
    share = f"{counts['success'] / told:.0%}" if told else "unknown"
    size_on_disk = f"{data['bytes'] / 1e6:,.0f} MB"
    return [*facts, (share, "success"), (size_on_disk, counted(data["shards"], "shard"))]


def _sections(found: Survey, report: dict[str, Any]) -> Iterator[tuple[str, str, list[go.Figure]]]:
    """(id, heading, charts) of each section with charts."""
    lengths = np.array([len(episode) for episode in found.episodes])
    charts = [instruction_chart(report["instructions"]), length_chart(lengths)]
    yield "episodes", "Episodes", charts
    actions = np.concatenate([episode.actions for episode in found.episodes])
    yield "actions", "Actions", action_charts(actions)
    yield "gripper", "Gripper", gripper_charts(report["gripper"]["stored"], found.episodes)


def _suspects(found: Survey, report: dict[str, Any]) -> list[tuple[str, list[Strip]]]:
    """(finding, pictures) of the episodes that look worst."""
    by_number = {episode.number: episode for episode in found.episodes}
    by_place = {(one.path.name, one.record): one.number for one in found.episodes}
    same = report["duplicates"]["episodes"][:1]
    kinds = [
        ("Actions far outside", [(o["episode"], o["step"]) for o in report["outliers"]]),
        ("Standing still", [(run["episode"], run["step"]) for run in report["still"]]),
        ("Images that do not change", [(run["episode"], run["step"]) for run in report["frozen"]]),
        ("Recorded twice", [(number, None) for group in same for number in group]),
        (
            "Damaged images",
            [
                (by_place[fault["shard"], fault["record"]], fault["step"])
                for fault in report["faults"]
                if fault["kind"] == "frame"
            ],
        ),
    ]
    return [
        (heading, [_strip(by_number[number], step) for number, step in places[:SUSPECTS]])
        for heading, places in kinds
        if places
    ]


def _strip(episode: Episode, step: int | None = None) -> Strip:
    """With `step`, that one is in the middle."""
    last = len(episode) - 1
    steps = (0, last // 2 if step is None else step, last)
    outcome = {True: "success", False: "failure", None: "outcome unknown"}[episode.success]
    caption = f"episode {episode.number}, {len(episode)} steps, {outcome}"
    if step is not None:
        caption += f"; step {step} in the middle"
    images = [_data_url(episode, number) for number in steps]
    return Strip(caption, episode.instruction, images)


def _data_url(episode: Episode, step: int) -> str | None:
    data = episode.encoded_frame(step)
    try:
        decode_picture(data)
    except ValueError:
        return None
    kind = "jpeg" if data.startswith(JPEG_START) else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
