"""Run training steps on tensors without data, to count FLOPs and memory.

The network, the objective and the optimizers are the real ones; only the tensors are fake: they
have shapes and types, but no numbers. So a count takes seconds for a network of any size, and stays
true when the code changes.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from selfflow_robotics.batch import Batch
from selfflow_robotics.models import layers
from selfflow_robotics.models.adapters import AdapterConfig
from selfflow_robotics.models.network import Network, NetworkConfig
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.objective.self_flow import Encoder, ObjectiveConfig
from selfflow_robotics.training.activations import Mode, blocks_of, checkpoint_activations
from selfflow_robotics.training.device import autocast
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers
from selfflow_robotics.training.teacher import update_teacher


def _cpu_attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _cpu_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)


# torch's counter does not know its own fused attention on CPUs.
_FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}


@dataclass(frozen=True)
class RoleWork:
    """The steps of one role."""

    role: str
    share: float  # of the steps
    batch: int  # samples per step, over all processes
    objective: ObjectiveConfig
    samples: Callable[[int], Batch]  # a batch of that many samples of zeros
    frames: int = 0  # of a sample, that an autoencoder encodes during training
    frame_flops: float = 0.0  # of encoding one
    encode: Callable[[int], Any] | None = None  # encodes so many; None: its weights are missing

    @property
    def encoding_flops(self) -> float:
        """FLOPs to encode a sample's frames."""
        return self.frames * self.frame_flops


@dataclass(frozen=True)
class Workload:
    """What a run trains."""

    network: NetworkConfig
    roles: tuple[RoleWork, ...]
    conditioning: ConditioningConfig
    optimizer: OptimizerConfig
    loss_weights: dict[str, float] | None = None
    encoder: Encoder | None = None  # a frozen one, for objectives that need it
    precision: str = "fp32"  # or bf16
    accumulate: int = 1  # batches per step
    freeze: bool = False  # the backbone's weights; low-rank updates do so in any case


@dataclass(frozen=True)
class StepCost:
    """One training step in one process."""

    tokens: int  # denoised, over all draws
    flops: float  # matrix products of forward and backward; a multiply-add counts as two
    optimizer_flops: float  # those of the optimizer (Muon)
    activations: int  # bytes at the peak of forward and backward, beyond weights and average
    updating: int  # bytes at the peak of the update, beyond weights, average and optimizer state


@dataclass(frozen=True)
class Parameters:
    """Numbers of the network's parameters."""

    by_part: dict[str, int]
    trained: int  # number of those that are trained
    state_bytes: int  # of the optimizer's state
    largest_block: int

    @property
    def total(self) -> int:
        """Number of all parameters."""
        return sum(self.by_part.values())


def trace_step(
    work: Workload, role: RoleWork, batch: int, mode: Mode = "none", gpu: bool = False
) -> StepCost:
    """Count one step of `batch` samples.

    `mode`: which activations of blocks are computed again for the backward pass. `gpu`: attention
    as on a GPU, which never stores its weights.
    """
    counter = _Counter()
    with _fake(gpu), counter:
        student, teacher = _networks(work)
        optimizers = build_optimizers(student, work.optimizer)
        checkpoint_activations(student, mode)
        before = counter.start()
        with autocast(torch.device("cpu"), work.precision, mode != "none"):
            terms = step_loss(work, role, student, teacher, batch)
        tokens = terms.num_tokens
        terms.loss.backward()
        del terms
        flops, peak = counter.flops, counter.peak
        counter.start()
        parameters = [p for p in student.parameters() if p.requires_grad]
        nn.utils.clip_grad_norm_(parameters, work.optimizer.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        update_teacher(teacher, student, 0.999)
        state = sum(_nbytes(x) for x in _state_tensors(optimizers))
        return StepCost(tokens, flops, counter.flops, peak - before, counter.peak - before - state)


def step_loss(
    work: Workload, role: RoleWork, student: Network, teacher: Network, batch: int
) -> Any:
    """The terms of the loss of one role, for a batch of zeros."""
    # Dropping texts costs nothing, and needs numbers that fake tensors do not have.
    conditioning = replace(work.conditioning, text_dropout=0.0)
    return loss(
        student,
        teacher,
        role.samples(batch),
        ROLES[role.role],
        role.objective,
        conditioning,
        torch.Generator().manual_seed(0),
        weights=work.loss_weights,
        encoder=work.encoder,
    )


def count_parameters(work: Workload) -> Parameters:
    """Count the network's parameters by part, and the optimizer's state."""
    with _fake(gpu=False):
        network, _ = _networks(work)
        optimizers = build_optimizers(network, work.optimizer)
        parts: dict[str, int] = {}
        for name, parameter in network.named_parameters():
            part = part_of(name)
            parts[part] = parts.get(part, 0) + parameter.numel()
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        for optimizer in optimizers:
            optimizer.step()
        blocks = [sum(p.numel() for p in b.parameters()) for b in blocks_of(network)]
        state = sum(_nbytes(x) for x in _state_tensors(optimizers))
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Parameters(parts, trained, state, max(blocks))


# Part -> what a parameter's name contains; the first that fits.
PARTS = {
    "auxiliary heads": "auxiliary.",
    "output layers": "final_layer",
    "timestep embedding": "t_embedder",
    "low-rank updates": ".parametrizations.weight.0.",
    "text encoder": "text.",
    "modulation": "adaLN_modulation",
    "attention": ".attn.",
    "MLPs": ".mlp.",
    "labels": "label_table",
    "training-only head": "projector",
    "input layers": "adapters",
}


def part_of(name: str) -> str:
    """The part of the network that a parameter belongs to."""
    return next((part for part, word in PARTS.items() if word in name), "other")


class _Unchecked(AdapterConfig):
    """An adapter's configuration for fake tokens, whose places cannot be compared."""

    def check(self, name: str, slot: Any) -> None:
        pass


def _networks(work: Workload) -> tuple[Network, Network]:
    adapters = {name: _Unchecked(**vars(a)) for name, a in work.network.adapters.items()}
    config = replace(work.network, adapters=adapters)
    # Copying a fake network would copy the mode of its tensors, too.
    student = Network(config)
    if work.freeze and work.network.lora is None:  # with updates, it is frozen already
        student.freeze_backbone()
    return student, Network(config).requires_grad_(False).eval()


@contextmanager
def _fake(gpu: bool) -> Iterator[None]:
    """Tensors without data; for a `gpu`, with its kind of attention."""
    short = layers.SHORT
    layers.SHORT = 0 if gpu else short
    try:
        with FakeTensorMode():
            yield
    finally:
        layers.SHORT = short


def _state_tensors(optimizers: list[torch.optim.Optimizer]) -> Iterator[Tensor]:
    for optimizer in optimizers:
        for state in optimizer.state.values():
            yield from (x for x in state.values() if isinstance(x, Tensor))


def _nbytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


class _Counter(TorchDispatchMode):
    """Counts FLOPs, and the bytes of all living tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.peak, self._now = 0.0, 0, 0
        self._living: dict[int, weakref.ref] = {}

    def start(self) -> int:
        """Count from here; returns the bytes in use."""
        self.flops, self.peak = 0.0, self._now
        return self._now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = _FLOPS.get(getattr(func, "overloadpacket", None))
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        for x in tree_iter(out):
            if isinstance(x, Tensor):
                self._note(x.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._living:
            return
        size = storage.nbytes()

        def freed(_: weakref.ref) -> None:
            del self._living[key]
            self._now -= size

        self._living[key] = weakref.ref(storage, freed)
        self._now += size
        self.peak = max(self.peak, self._now)
