"""What several robot data sets must have in common to be mixed, and what a checkpoint records."""

import math
from collections.abc import Sequence
from typing import Any

from selfflow_robotics.data.rlds.schema import BRIDGE, FRACTAL
from selfflow_robotics.data.robot_index import RobotIndex
from selfflow_robotics.envs.tasks.base import GOOGLE_ROBOT, WIDOWX
from selfflow_robotics.errors import UserError

ROBOTS = {FRACTAL.name: GOOGLE_ROBOT.name, BRIDGE.name: WIDOWX.name}


def check_alike(indices: Sequence[RobotIndex]) -> None:
    """Raise UserError unless all data sets are of one robot and one control rate."""
    layouts = {one.layout.name for one in indices if one.layout is not None}
    if len(layouts) > 1:
        raise UserError(
            f"the data sets are of two robots, as their features are those of "
            f"{' and '.join(sorted(layouts))}; choose data and play of one robot (or no play: "
            "play_share=0)"
        )
    rates = {one.provenance["control_hz"] for one in indices if "control_hz" in one.provenance}
    if len(rates) > 1:
        raise UserError(
            f"the data sets have different control rates, {' and '.join(map(str, sorted(rates)))} "
            "Hz, so their displacements differ in size; choose data of one rate"
        )


def check_different(indices: Sequence[RobotIndex]) -> None:
    """Raise UserError if a data set is there twice, under any path."""
    if len({one.fingerprint for one in indices}) < len(indices):
        raise UserError(
            "two of the data sets have the same episodes; leave one out, and give the other a "
            "larger share with data_weights if it should count more"
        )


def check_mixture(data: object, weights: Sequence[float] | None) -> None:
    """Raise UserError for no data sets, or weights that are not one positive number for each."""
    if data == ():
        raise UserError("data is an empty list; name data sets, or leave it out")
    if weights is None:
        return
    count = len(data) if isinstance(data, tuple) else 1
    if len(weights) != count:
        raise UserError(f"data_weights has {len(weights)} values for {count} data sets: one each")
    if not all(0 < weight < math.inf for weight in weights):
        raise UserError(f"data_weights must be above 0, got {list(weights)}; leave data sets out")


def data_names(count: int) -> list[str]:
    """The names of data sets in a checkpoint's fingerprints: data, data[1], ..."""
    return [f"data[{one}]" if one else "data" for one in range(count)]


def mixture_provenance(indices: Sequence[RobotIndex], weights: Sequence[float]) -> dict[str, Any]:
    """The provenance of one data set; for several, what all of them share, their robot and, in
    `data_sets`, each one's own with its weight.

    Actions are normalised by the statistics of the mixture, in which each data set counts by its
    weight. The data sets are of one robot and in the same units, so a displacement means the same
    in all of them; with statistics per data set (Octo, OpenVLA) the same tokens would mean
    different displacements, and a policy would have to be told which data set it is in.
    """
    first, *others = (one.provenance for one in indices)
    if not others:
        return first
    shared = {
        key: value for key, value in first.items() if all(o.get(key) == value for o in others)
    }
    layout = indices[0].layout
    robot = {"robot": ROBOTS[layout.name]} if layout and layout.name in ROBOTS else {}
    return {
        **robot,
        **shared,
        "data_sets": [
            {**one.provenance, "weight": weight}
            for one, weight in zip(indices, weights, strict=True)
        ],
        "action_statistics": "pooled by weight",
    }
