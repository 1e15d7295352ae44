"""Time updates of shallow networks on this computer, and extrapolate over the depth.

The shallow networks have the real one's width, objective, optimizers and samples, so no rate of the
processor has to be assumed. A step of theirs costs

    fixed + D x (a block of the student) + K x (a block of the teacher)

for a student of D blocks and a teacher that stops after K; with two kinds of blocks, one such term
for each. The costs that fit the timed steps give the step of a network of any depth.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.network import Network
from selfflow_robotics.objective.metrics import loss_metrics
from selfflow_robotics.planning.machines import seconds_of
from selfflow_robotics.planning.trace import RoleWork, Workload, step_loss
from selfflow_robotics.training.activations import Mode, checkpoint_activations
from selfflow_robotics.training.device import autocast
from selfflow_robotics.training.optimizer import build_optimizers
from selfflow_robotics.training.teacher import make_teacher, update_teacher

# A timed step takes about so long: of batches that take longer, it has a part.
STEP_SECONDS = 0.5
ROUNDS = 4  # the least of so many steps counts
Layers = tuple[int, int, int]  # double-stream and other blocks of the student, blocks of a teacher


class StepTimes(NamedTuple):
    """Seconds of the parts of a step on idle cores: processor time per thread."""

    batch: float  # encoding of the frames, forward and backward pass
    update: float  # clipping, optimizers, moving average
    metrics: float  # of a step that is logged


def measure_step(work: Workload, role: RoleWork, mode: Mode = "none") -> StepTimes:
    """What a step of one role takes with the whole network, activations being kept as `mode` says.

    Takes some five seconds, and memory for a network of up to four blocks with its optimizer state.
    """
    samples, rows, times = None, [], []
    for layers in _shallow(work, role):
        small, small_role = _with_layers(work, role, layers)
        step = _Step(small, small_role, mode)
        if samples is None:
            step.times(1)
            one = step.times(1)
            samples = max(1, min(role.batch, round(STEP_SECONDS / one.batch)))
        step.times(samples)  # allocates memory and optimizer state
        parts = zip(*(step.times(samples) for _ in range(ROUNDS)), strict=True)
        times.append([min(part) for part in parts])
        rows.append(_terms(small, small_role))
        del step
    assert samples is not None
    wanted = torch.tensor([_terms(work, role)])
    costs = torch.linalg.lstsq(torch.tensor(rows), torch.tensor(times)).solution
    batch, update, metrics = (wanted @ costs.clamp(min=0)).squeeze(0).tolist()
    scale = role.batch / samples
    return StepTimes(batch * scale + _encoding(role), update, metrics * scale)


class _Step:
    """Updates of one network, timed."""

    def __init__(self, work: Workload, role: RoleWork, mode: Mode) -> None:
        self._work, self._role = work, role
        self._student = Network(work.network)
        if work.freeze and work.network.lora is None:
            self._student.freeze_backbone()
        self._teacher = make_teacher(self._student)
        self._optimizers = build_optimizers(self._student, work.optimizer)
        checkpoint_activations(self._student, mode)
        self._recomputing = mode != "none"

    def times(self, samples: int) -> StepTimes:
        """The times of an update with a batch of so many samples."""
        marks = [time.process_time()]
        with autocast(torch.device("cpu"), self._work.precision, self._recomputing):
            terms = step_loss(self._work, self._role, self._student, self._teacher, samples)
        terms.loss.backward()
        marks.append(time.process_time())
        trained = [p for p in self._student.parameters() if p.requires_grad]
        nn.utils.clip_grad_norm_(trained, self._work.optimizer.clip_norm)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update_teacher(self._teacher, self._student, 0.999)
        marks.append(time.process_time())
        loss_metrics(terms)
        marks.append(time.process_time())
        threads = torch.get_num_threads()
        return StepTimes(*((b - a) / threads for a, b in itertools.pairwise(marks)))


def _encoding(role: RoleWork) -> float:
    """Seconds to encode the frames of a batch."""
    if role.encode is None:
        return 0.0
    encode, frames = role.encode, role.batch * role.frames
    timed = min(frames, 32)
    with torch.no_grad():
        return seconds_of(lambda: encode(timed), 0.2) * frames / timed


def _shallow(work: Workload, role: RoleWork) -> Iterator[Layers]:
    """The networks to time: as many as a step's cost has terms."""
    flux, teacher = isinstance(work.network.backbone, FluxConfig), role.objective.has_teacher
    if flux:
        yield from [(1, 1, 2), (1, 2, 2), (3, 1, 2)]
        if teacher:
            yield from [(2, 1, 2), (1, 2, 3)]
    else:
        yield from [(0, 2, 2), (0, 4, 2)]
        if teacher:
            yield 0, 4, 4


def _with_layers(work: Workload, role: RoleWork, layers: Layers) -> tuple[Workload, RoleWork]:
    """The workload with a network of these layers; the student's features are the first block's."""
    backbone, (double, single, teacher) = work.network.backbone, layers
    if isinstance(backbone, FluxConfig):
        backbone = replace(backbone, double=double, single=single)
    else:
        backbone = replace(backbone, depth=single)
    objective = replace(role.objective, student_layer=1, teacher_layer=teacher)
    early = None if work.network.auxiliary_layer is None else 1
    small = replace(work, network=replace(work.network, backbone=backbone, auxiliary_layer=early))
    return small, replace(role, objective=objective)


def _terms(work: Workload, role: RoleWork) -> list[float]:
    """The factors of a step's costs: 1, blocks of the student, blocks of the teacher."""
    backbone = work.network.backbone
    seen = role.objective.teacher_layer
    if isinstance(backbone, FluxConfig):
        double, single = backbone.double, backbone.single
        teacher = [min(seen, double), max(0, seen - double)]
        student = [double, single]
    else:
        student, teacher = [backbone.depth], [seen]
    return [1.0, *map(float, student), *map(float, teacher if role.objective.has_teacher else [])]
