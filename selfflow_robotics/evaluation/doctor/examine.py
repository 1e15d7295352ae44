"""Examine a data set, a checkpoint and a simulator: every check, with its evidence and verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.evaluation.doctor.action_statistics import check_gripper, check_range
from selfflow_robotics.evaluation.doctor.diagnosis import (
    Diagnosis,
    Evidence,
    Finding,
    MotionEvidence,
    ReplayEvidence,
    diagnose,
)
from selfflow_robotics.evaluation.doctor.pictures import FAULTS, contrast, difference
from selfflow_robotics.evaluation.doctor.recordings import Recording, Recordings
from selfflow_robotics.evaluation.doctor.replay import Start, find_starts
from selfflow_robotics.evaluation.doctor.tasks import robot_in
from selfflow_robotics.evaluation.doctor.trained import Trained
from selfflow_robotics.evaluation.domain import robot_of

# Pictures show the same scene if they differ by less than this share of their contrast.
_SAME_SCENE = 0.4
_PICTURE_FAULT, _PICTURE_OK = 0.67, 1.5  # ratios of differences, see `Limits`


@dataclass(frozen=True)
class Examination:
    """The result: `findings` in the order of the report."""

    findings: list[Finding]
    diagnosis: Diagnosis
    evidence: str  # in words
    robot: str
    replays: int  # recordings that were replayed

    @property
    def faults(self) -> list[Finding]:
        return [one for one in self.findings if one.verdict == "fault"]


def examine(
    found: Recordings,
    client: SimulatorClient | None,
    task: str,
    replays: int,
    trained: Trained | None = None,
    no_simulator: str = "",
) -> Examination:
    """Check the recordings' conventions.

    `client` None: without a simulator, because of `no_simulator`. `task`: of recordings that do not
    name theirs. `replays`: most recordings to replay.
    """
    robot = robot_in(found)
    pairs = [] if client is None else find_starts(client, found, task, replays)
    motion = MotionEvidence(found.episodes, robot)
    evidence: Evidence = motion
    if client is not None and pairs:
        evidence = ReplayEvidence(client, pairs)
        how = "from their recorded start" if evidence.exact else "in another scene"
        count = f"{len(pairs)} recording{'s' if len(pairs) > 1 else ''}"
        words = f"{count} replayed in {client.spec.simulator}, {how}"
    else:
        cause = no_simulator or "no recording starts as the simulator does"
        words = f"recorded motion of {len(found.episodes)} episodes; no replay: {cause}"
    diagnosis = diagnose(evidence, found.layout, None if evidence is motion else motion)
    if client is not None and pairs:
        pictures = check_pictures(client, pairs)
    else:
        pictures = _unseen("pictures need a replay")
    findings = [*diagnosis.findings, pictures, *_check_trained(found, robot, trained)]
    findings.sort(key=lambda one: ("fault", "ok", "not checked").index(one.verdict))
    return Examination(findings, diagnosis, words, robot, len(pairs))


def check_pictures(client: SimulatorClient, pairs: Sequence[tuple[Recording, Start]]) -> Finding:
    """Whether the recorded first images look as the simulator's."""
    recorded, rendered = [], []
    for recording, start in pairs:
        reply = client.call(
            "reset", task=start.task, seed=start.seed, options=start.options, observe=True
        )
        recorded.append(recording.first_image())
        rendered.append(reply["observation"]["image"])
    as_they_are = difference(recorded, rendered)
    others = {fault: difference(recorded, rendered, fault.change) for fault in FAULTS}
    likest, least = min(others.items(), key=lambda item: item[1])
    if min(as_they_are, least) > _SAME_SCENE * contrast(rendered):
        return _unseen("the recorded images show another scene than the simulator's")
    ratio = (least + 0.1) / (as_they_are + 0.1)
    about = ("images", "the whole picture, RGB", "first images")
    if ratio < _PICTURE_FAULT:
        return Finding(*about, "fault", likest.name, likest.mend, margin=1 / ratio)
    if ratio > _PICTURE_OK:
        return Finding(*about, "ok", margin=ratio)
    return Finding(*about, "not checked", why=f"'{likest.name}' looks as much alike", margin=ratio)


def _unseen(why: str) -> Finding:
    return Finding("images", "the whole picture, RGB", "first images", "not checked", why=why)


def _check_trained(found: Recordings, robot: str, trained: Trained | None) -> list[Finding]:
    """The findings on what a network was trained with."""
    if trained is None:
        why = "no checkpoint or statistics given"
        names = ("action statistics", "gripper statistics")
        return [Finding(name, "the data's", "statistics", "not checked", why=why) for name in names]
    actions = np.concatenate([one.actions for one in found.episodes])
    findings = [check_range(trained.stats, actions), check_gripper(trained.stats, actions)]
    if trained.provenance is not None and (theirs := robot_of(trained.provenance)):
        about = ("robot of the network", robot, "provenance")
        if theirs == robot:
            findings.append(Finding(*about, "ok"))
        else:
            mend = "choose a network, or data, of the same robot"
            findings.append(Finding(*about, "fault", theirs, mend))
    return findings
