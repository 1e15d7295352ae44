"""Published success rates for SIMPLER's visual matching protocol."""

SOURCE = "SimplerEnv, simpler_env/utils/metrics.py (SIMPLER_PERF)"

# task -> policy -> success rate; pick_coke_can over 300 episodes: 3 orientations, 25 positions,
# 4 robot colours.
VISUAL_MATCHING: dict[str, dict[str, float]] = {
    "pick_coke_can": {
        "RT-1 (converged)": 0.857,
        "RT-2-X": 0.787,
        "RT-1 (15 % of training)": 0.710,
        "RT-1-X": 0.567,
        "Octo-Base": 0.170,
        "RT-1 (beginning of training)": 0.027,
    },
}


def published_line(task: str) -> str | None:
    """The published rates of a task in one line, or None if there are none."""
    rates = VISUAL_MATCHING.get(task)
    if rates is None:
        return None
    listed = ", ".join(f"{policy} {100 * rate:.1f} %" for policy, rate in rates.items())
    return f"Published for visual matching: {listed} ({SOURCE})."
