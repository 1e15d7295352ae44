"""The remarks under a table of success rates: what limits the comparison with other results."""

from typing import Any

from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.evaluation.domain import TITLES
from selfflow_robotics.evaluation.published import Beside


def remarks(
    task: Task,
    simulator: str,
    provenance: dict[str, Any],
    data: dict[str, Any] | None,
    instruction: str | None = None,
    published: Beside | None = None,
) -> tuple[str, ...]:
    """One remark per line.

    Args:
        provenance: the simulator's.
        data: provenance of the data that the policy was trained on; None: it was not trained.
        instruction: what the policy was told instead of the task's instruction, if anything.
        published: the published numbers for the result.
    """
    lines = []
    if instruction is not None:
        lines.append(f"The policy's instruction was \"{instruction}\" instead of the task's.")
    if data is not None and data.get("simulator") == simulator:
        lines.append(f"Trained on demonstrations recorded in {TITLES[simulator]} itself.")
    if provenance.get("stage_is_stand_in"):
        lines.append(
            f"The table ({provenance['stage']}) is a stand-in for SIMPLER's own, with the same "
            "height and position. SIMPLER's photograph hides it in the images."
        )
    if invisible := provenance.get("invisible"):
        lines.append(
            f"Invisible in the images: {', '.join(invisible)} (no mesh in SIMPLER's checkout)."
        )
    if simulator == "simpler" and task.simpler and task.simpler.remark:
        lines.append(task.simpler.remark)
    if published:
        lines += published.lines()
    return tuple(lines)
