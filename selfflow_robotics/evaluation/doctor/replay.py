"""Evidence from a simulator: play the recorded actions, and compare the motion with the recorded.

An episode that this project recorded in the same simulator is repeated exactly: its note tells the
seed and everything drawn. Of other recordings the objects are unknown; those that start where the
simulator's robot starts are played in another scene of the task, whose objects the arm may touch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.evaluation.doctor.recordings import Recording, Recordings
from selfflow_robotics.robot.actions import environment_from_policy
from selfflow_robotics.robot.observation import proprio_vector

# A recording starts where the simulator does if its tool is that near (m).
_SAME_START_M = 0.02
# Entries of a simulator's provenance that tell whether it repeats a recording to the bit.
_PHYSICS = ("physics_sha256", "mujoco", "ruckig", "sapien")


@dataclass(frozen=True, eq=False)
class Start:
    """How the simulator starts to repeat a recording."""

    task: str
    seed: int
    options: dict[str, Any]
    exact: bool  # the recorded scene and physics, not another scene or version


@dataclass(frozen=True, eq=False)
class Replay:
    """A recording played in the simulator."""

    reached: np.ndarray  # float32 [T, 8] proprioception after each of its T actions
    success: bool  # at the last step

    def errors(self, recording: Recording) -> np.ndarray:
        """[3]: mean distance to the recorded motion: position (m), rotation (rad), closedness."""
        # The recorded state of a step is that before its action.
        one, other = self.reached[:-1], recording.proprio[1:]
        turned = Rotation.from_quat(one[:, 3:7]) * Rotation.from_quat(other[:, 3:7]).inv()
        return np.array(
            [
                np.linalg.norm(one[:, :3] - other[:, :3], axis=1).mean(),
                turned.magnitude().mean(),
                np.abs(one[:, 7] - other[:, 7]).mean(),
            ]
        )


def find_starts(
    client: SimulatorClient, found: Recordings, task: str, most: int
) -> list[tuple[Recording, Start]]:
    """Up to `most` recordings that the simulator can repeat; exact ones, if there are any.

    `task`: of recordings whose note names none.
    """
    same = found.provenance.get("simulator") == client.spec.simulator
    exact = [one for one in found.episodes if same and _is_told(one)]
    if exact:
        return [(one, _told_start(one, client, found.provenance)) for one in exact[:most]]
    other = Start(task, 0, {}, False)
    first = _seen(client.call("reset", task=task, seed=0, options={}, observe=False)["info"])
    near = [
        one
        for one in found.episodes
        if np.linalg.norm(one.proprio[0, :3] - first[:3]) < _SAME_START_M
    ]
    return [(one, other) for one in near[:most]]


def replay(client: SimulatorClient, recording: Recording, start: Start) -> Replay:
    """Play a recording's actions."""
    client.call("reset", task=start.task, seed=start.seed, options=start.options, observe=False)
    actions = np.repeat(environment_from_policy(recording.actions), recording.hold, axis=0)
    infos = client.call("run", actions=actions, observe="none")["infos"]
    reached = np.stack([_seen(info) for info in infos[recording.hold - 1 :: recording.hold]])
    return Replay(reached, bool(infos[-1]["success"]))


def _is_told(one: Recording) -> bool:
    """Whether the note tells how the episode starts, and nothing else moved the arm."""
    return (
        not one.disturbed
        and one.note.get("unrecorded_steps", 0) == 0
        and isinstance(one.note.get("drawn"), dict)
        and isinstance(one.note.get("task"), str)
    )


def _told_start(one: Recording, client: SimulatorClient, recorded: dict[str, Any]) -> Start:
    task, seed = one.note["task"], int(one.note["seed"])
    options = {key: value for key, value in one.note["drawn"].items() if key != "seed"}
    of_task = [own for own in recorded.get("tasks", [recorded]) if own.get("task") == task]
    now = client.provenance(task)
    same = all(own.get(key) == now.get(key) for own in of_task for key in _PHYSICS)
    return Start(task, seed, options, same)


def _seen(info: dict[str, Any]) -> np.ndarray:
    """Proprioception [8] of a state."""
    state = info["state"]
    return proprio_vector(state["tool_pose"], state["base_pose"], state["gripper"])
