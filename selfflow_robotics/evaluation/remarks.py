"""The remarks under a table of success rates: what limits the comparison with other results."""

from typing import Any

from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.evaluation.domain import TITLES, is_real
from selfflow_robotics.evaluation.published import published_line


def remarks(
    task: Task,
    simulator: str,
    protocol: str,
    num_episodes: int,
    provenance: dict[str, Any],
    data: dict[str, Any] | None,
    instruction: str | None = None,
) -> tuple[str, ...]:
    """One remark per line.

    Args:
        provenance: the simulator's.
        data: provenance of the data that the policy was trained on; None: it was not trained.
        instruction: what the policy was told instead of the task's instruction, if anything.
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
    comparable = data is not None and is_real(data) and simulator == "simpler"
    if comparable and instruction is None:
        lines.append(published_line(task.name, protocol, num_episodes))
    return tuple(line for line in lines if line)
