"""Published success rates for SIMPLER's visual matching protocol.

They are means of success at the last step over SIMPLER's four robot colours (and three drawers, or
three orientations of the can). All cells have equally many episodes, so the success rate over all
episodes of the protocol is the same number.
"""

SOURCE = "SimplerEnv, simpler_env/utils/metrics.py (SIMPLER_PERF)"

_POLICIES = (
    "RT-1 (converged)",
    "RT-2-X",
    "RT-1 (15 % of training)",
    "RT-1-X",
    "Octo-Base",
    "RT-1 (beginning of training)",
)
_MOVE_NEAR = (0.442, 0.779, 0.354, 0.317, 0.042, 0.050)
# Task -> number of episodes, and the success rates of _POLICIES.
VISUAL_MATCHING: dict[str, tuple[int, tuple[float, ...]]] = {
    "pick_coke_can": (300, (0.857, 0.787, 0.710, 0.567, 0.170, 0.027)),
    "move_near": (240, _MOVE_NEAR),  # SIMPLER itself files them under this name
    "move_near_v0": (240, _MOVE_NEAR),  # and its scripts play this one
    "open_drawer": (108, (0.601, 0.157, 0.463, 0.296, 0.009, 0.0)),
    "close_drawer": (108, (0.861, 0.343, 0.667, 0.891, 0.444, 0.278)),
    "place_apple_in_closed_top_drawer": (108, (0.065, 0.037, 0.130, 0.213, 0.0, 0.0)),
}


def published_line(task: str, protocol: str, num_episodes: int) -> str | None:
    """The published rates that are comparable with an evaluation, in one line.

    None if there are none: for another task or protocol, or for part of the protocol.
    """
    episodes, rates = VISUAL_MATCHING.get(task, (None, ()))
    if protocol != "visual_matching" or num_episodes != episodes:
        return None
    listed = ", ".join(
        f"{policy} {100 * rate:.1f} %" for policy, rate in zip(_POLICIES, rates, strict=True)
    )
    return f"Published for visual matching, success at the last step: {listed} ({SOURCE})."
