"""Ask a foreign policy for its first answers, before an evaluation is spent on a wrong convention.

The specs of a handshake say what a server's numbers should mean, or nothing. Its first answers, in
a few initial states of the evaluation, show some conventions that are not as expected:

* the gripper: where the scripted expert begins with an open gripper, a policy that closes it at
  once in every state probably has it the other way round
* units: displacements or turns that are much larger than in the published data of the robot are not
  metres and radians
* numbers of the gripper outside of what the server's spec declares

They do not tell a rotation vector from roll, pitch, yaw: the two differ by about half the product
of a turn's angles, which looks like any other turn. The probe measures how far apart they are
instead.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from selfflow_robotics.envs.client import SimulatorClient, SimulatorError
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tasks.base import WIDOWX
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.evaluation.doctor.action_statistics import PUBLISHED, RANGE_LIMITS
from selfflow_robotics.evaluation.doctor.diagnosis import Finding
from selfflow_robotics.evaluation.doctor.policy_costs import as_rotation_vector
from selfflow_robotics.messages.specs import GRIPPERS, ActionSpec
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.policies.expert import ScriptedExpert
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.policies.noop import NoopPolicy
from selfflow_robotics.policies.random import RandomPolicy
from selfflow_robotics.robot.actions import GRIPPER

STARTS = 3  # initial states
_OURS = (FlowPolicy, RandomPolicy, ScriptedExpert, NoopPolicy)
_ROOM = 0.25  # of the range of the gripper's numbers, outside of it


def is_foreign(policy: Policy) -> bool:
    """Whether its conventions are somebody else's. One that reads the simulator's state is not
    asked: its conventions are ours."""
    return not (isinstance(policy, _OURS) or policy.privileged)


def probe(
    policy: Policy, client: SimulatorClient, episodes: Sequence[EpisodeSpec]
) -> list[Finding]:
    """What the policy's first answers in the first of `episodes` say; empty if the simulator fails.

    Raises UserError if the policy does.
    """
    expert = ScriptedExpert()
    chunks, commands, wires = [], [], []
    for episode in episodes[:STARTS]:
        try:
            reply = client.call(
                "reset",
                task=episode.task,
                seed=episode.seed,
                options={"variant": episode.variant, **episode.options},
                observe=getattr(policy, "looks", True),
            )
        except SimulatorError:
            client.restart()
            return []
        policy.begin(0, episode)
        [chunk] = policy.act([0], [reply["observation"] or {}], None)
        expert.begin(0, episode)
        [command] = expert.act([0], [{}], [reply["info"]])
        chunks.append(np.asarray(chunk, np.float64))
        commands.append(float(command[0, GRIPPER]))
        if (answered := getattr(policy, "answered", None)) is not None:
            wires.append(answered(0))
    if not all(np.isfinite(chunk).all() and chunk.shape[1:] == (7,) for chunk in chunks):
        return []  # the first episode says so
    robot = get_task(episodes[0].task).robot.name
    return [
        check_first_gripper(chunks, commands),
        check_units(chunks, robot),
        *(check_declared(*wire) for wire in wires[:1]),
        check_turns(chunks),
    ]


def check_first_gripper(chunks: Sequence[np.ndarray], expected: Sequence[float]) -> Finding:
    """Whether the gripper stays open at first, if it should: `expected` has the expert's command in
    each state."""
    about = ("gripper", "open at first", "first answers")
    if any(command > 0 for command in expected):
        return Finding(*about, "not checked", why="the task does not begin with an open gripper")
    closing = sum(chunk[0, GRIPPER] > 0 for chunk in chunks)
    if closing < len(chunks):
        return Finding(*about, "ok")
    return Finding(
        *about,
        "fault",
        f"closed at once in {closing} of {closing} initial states, far from any object",
        "if the policy means to open it, turn the gripper's number round, or declare its format in "
        "the server's action_spec",
    )


def check_units(chunks: Sequence[np.ndarray], robot: str) -> Finding:
    """Whether a step is as small as this robot's, in m and rad."""
    data = "bridge_dataset" if robot == WIDOWX.name else "fractal20220817_data"
    most = np.abs(PUBLISHED[data]).max(axis=0)
    about = ("units", "metres and radians", "first answers")
    for name, part in (("moves", slice(0, 3)), ("turns", slice(3, 6))):
        largest = float(np.median([np.abs(chunk[:, part]).max() for chunk in chunks]))
        usual, unit = float(most[part].max()), "m" if name == "moves" else "rad"
        if largest > RANGE_LIMITS[1] * usual:
            return Finding(
                *about,
                "fault",
                f"a step {name} by up to {largest:.2g} {unit}, where those of {data} stay below "
                f"{usual:.2g} {unit}",
                "unnormalize the actions with the statistics of the policy's data; convert degrees",
                margin=largest / usual,
            )
    return Finding(*about, "ok")


def check_declared(spec: ActionSpec, raw: np.ndarray) -> Finding:
    """Whether the gripper's numbers are those of the spec that they are read by."""
    low, high = sorted(GRIPPERS[spec.gripper])
    least, most = float(raw[:, GRIPPER].min()), float(raw[:, GRIPPER].max())
    about = ("gripper's numbers", f"{low:g} to {high:g} ({spec.gripper})", "first answers")
    room = _ROOM * (high - low)
    if low - room <= least and most <= high + room:
        return Finding(*about, "ok")
    return Finding(
        *about,
        "fault",
        f"{least:.3g} to {most:.3g}",
        f"declare the server's format in its action_spec: one of {', '.join(GRIPPERS)}",
    )


def check_turns(chunks: Sequence[np.ndarray]) -> Finding:
    """How much it would matter if rotation vectors were roll, pitch, yaw, or the reverse."""
    actions = np.concatenate(chunks)
    turns = Rotation.from_rotvec(actions[:, 3:6])
    other = Rotation.from_rotvec(as_rotation_vector(actions, {})[:, 3:6])
    apart = float(np.degrees((turns.inv() * other).magnitude()).max())
    why = f"in these answers, both readings differ by at most {apart:.2g} degrees a step"
    return Finding("rotation", "as declared", "first answers", "not checked", why=why)


def fault_text(finding: Finding) -> str:
    """A warning with what to do about it."""
    return (
        f"the policy's {finding.convention} may be wrong: {finding.found}; expected: "
        f"{finding.expected}. Fix: {finding.mend}. (probe=false skips this check)"
    )


def probe_text(findings: Sequence[Finding]) -> str:
    """One line for all of them."""
    words = [
        f"{one.convention} {one.verdict}" + (f" ({one.why})" if one.why else "") for one in findings
    ]
    return f"the policy's first answers: {'; '.join(words)}"
