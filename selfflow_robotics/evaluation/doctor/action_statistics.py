"""Whether a network's action statistics fit the data, and whose they are if not."""

from dataclasses import dataclass

import numpy as np

from selfflow_robotics.evaluation.doctor.diagnosis import Finding
from selfflow_robotics.robot.actions import ARM, GRIPPER
from selfflow_robotics.robot.normalize import ActionNormalizer, NormStats

# 1 % and 99 % quantiles of the published data sets (OpenVLA's dataset_statistics.json).
PUBLISHED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "fractal20220817_data": (
        (-0.224535, -0.148200, -0.231590, -0.351799, -0.419301, -0.436435),
        (0.178247, 0.149384, 0.218424, 0.589267, 0.352727, 0.447967),
    ),
    "bridge_dataset": (
        (-0.028727, -0.041703, -0.026094, -0.080921, -0.092887, -0.207183),
        (0.028310, 0.040855, 0.040162, 0.081920, 0.077929, 0.203826),
    ),
}
# How much narrower or wider than the data's the range may be. Tasks of one robot differ by up to a
# factor of two, the robots by three and more (docs/doctor.md).
RANGE_LIMITS = (0.6, 2.5)
LEAST_STEPS = 100  # recorded steps that tell the range
# Shares of open-gripper steps that tell the two meanings apart.
_LEAST_GRIPPER = 0.1


@dataclass(frozen=True)
class Fit:
    """How the range of statistics fits recorded actions."""

    outside: float  # share of the arm's recorded numbers beyond the range
    wider: float  # range over that of the data, median of the six


def fit(stats: NormStats, actions: np.ndarray) -> Fit:
    """Of policy vectors [N, 7] in m and rad."""
    scaled = ActionNormalizer(stats).normalize(np.asarray(actions, np.float64))[:, ARM]
    own = ActionNormalizer(NormStats.compute(actions)).half_range[ARM]
    wider = ActionNormalizer(stats).half_range[ARM] / own
    return Fit(float((np.abs(scaled) > 1).mean()), float(np.median(wider)))


def check_range(stats: NormStats, actions: np.ndarray) -> Finding:
    """Whether the statistics are of such actions: neither clipping nor inflating them."""
    expected = "the data's range"
    if len(actions) < LEAST_STEPS:
        why = f"{len(actions)} recorded steps do not tell the range"
        return Finding("action statistics", expected, "statistics", "not checked", why=why)
    found = fit(stats, actions)
    numbers = (
        f"the range is {found.wider:.2g} times the data's, and {found.outside:.0%} of the recorded "
        "numbers lie outside"
    )
    narrow, wide = RANGE_LIMITS
    distance = max(narrow / found.wider, found.wider / wide)  # 1 at the limit
    if distance <= 1:
        return Finding(
            "action statistics", expected, "statistics", "ok", numbers, margin=1 / distance
        )
    whose = _nearest(stats)
    return Finding(
        "action statistics",
        expected,
        "statistics",
        "fault",
        f"statistics of another robot or unit{whose}: {numbers}",
        "use the statistics of this data set, in the checkpoint and where actions are unnormalized",
        margin=distance,
    )


def check_gripper(stats: NormStats, actions: np.ndarray) -> Finding:
    """Whether the gripper is as often open in the statistics as in the data."""
    own, theirs = float(np.mean(actions[:, GRIPPER])), float(stats.mean[GRIPPER])
    about = ("gripper statistics", "1 open, 0 closed", "statistics")
    if abs(own - 0.5) < _LEAST_GRIPPER:
        why = f"the gripper is open in {own:.0%} of the steps, so both meanings look alike"
        return Finding(*about, "not checked", why=why)
    if abs(theirs - (1 - own)) < abs(theirs - own) / 2:
        return Finding(
            *about,
            "fault",
            f"1 closed: the mean is {theirs:.2f}, but the data's {own:.2f}",
            "train again with 1 for an open gripper, or invert the policy's gripper",
            margin=abs(theirs - own) / max(abs(theirs - (1 - own)), 0.01),
        )
    if abs(theirs - own) < abs(theirs - (1 - own)) / 2:
        return Finding(*about, "ok", margin=abs(theirs - (1 - own)) / max(abs(theirs - own), 0.01))
    return Finding(*about, "not checked", why=f"the mean {theirs:.2f} fits neither meaning")


def _nearest(stats: NormStats) -> str:
    """The published statistics that these are, in words; empty if they are none of them."""
    low, high = stats.q01[ARM], stats.q99[ARM]
    for name, (q01, q99) in PUBLISHED.items():
        span = np.subtract(q99, q01)
        if max(np.abs(low - q01).max(), np.abs(high - q99).max()) < 0.1 * float(span.min()):
            return f" ({name}'s)"
    return ""
