"""Memory and time of a run, from the counts of `trace` and the rates of a machine.

    step time  = FLOPs / (peak rate x MFU) + update + communication
    memory     = weights + average + optimizer state + max(activations, gradients and update)

`replicate` keeps everything in every process and averages gradients after the backward pass;
`fsdp` divides weights, average, gradients and optimizer state (FSDP2), gathers each block before
use, and does so while computing. What is assumed rather than counted or measured is named here, and
printed with each plan.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from selfflow_robotics.planning.machines import GPUS_PER_NODE, Machine
from selfflow_robotics.planning.trace import (
    Parameters,
    RoleWork,
    StepCost,
    Workload,
    count_parameters,
    trace_step,
)
from selfflow_robotics.training.activations import Mode

Strategy = Literal["replicate", "fsdp"]
MODES: tuple[Mode, ...] = get_args(Mode)

FP32 = 4  # bytes; weights, gradients, average and optimizer state
# Bytes that an update reads or writes: per trained parameter AdamW 28 and clipping 12; per
# parameter of the network the average.
UPDATE_BYTES = 40
AVERAGE_BYTES = 12
# glibc's heap against the tensors in it, on a CPU that keeps freed memory: measured, 1.85 to 2.05.
HEAP = 1.9
CUDA_BYTES = 1e9  # assumed: CUDA's context, libraries and unused parts of allocated blocks


class Memory(NamedTuple):
    """Bytes in one process."""

    weights: float
    average: float
    optimizer: float
    gradients: float
    activations: dict[Mode, float]  # by train.activation_checkpoint
    gathered: float  # weights and gradients of the blocks in use, for fsdp
    process: float
    updating: float
    heap: float  # memory that an allocator takes for a byte of tensors
    held: float  # gradients of a step's earlier batches

    def peak(self, mode: Mode = "none") -> float:
        """The largest total of a step; the backward pass frees activations as it adds gradients."""
        active = self.activations[mode] + self.gathered + self.held
        lasting = self.weights + self.average + self.optimizer
        return self.process + self.heap * (lasting + max(active, self.updating))


class Seconds(NamedTuple):
    """Parts of an average step."""

    compute: float
    update: float
    communication: float  # that computing does not hide

    @property
    def total(self) -> float:
        """The step time."""
        return sum(self)


@dataclass(frozen=True)
class Estimate:
    """What was counted for a workload, independent of the machine."""

    work: Workload
    parameters: Parameters
    steps: dict[str, StepCost]  # of each role, for its batch in one process
    heaviest: RoleWork  # the role with the most activations
    fixed: dict[Mode, float]  # bytes of activations that do not grow with the batch ...
    per_sample: dict[Mode, float]  # ... and those per sample

    @classmethod
    def of(cls, work: Workload, gpu: bool) -> "Estimate":
        """Count one step of every role, and, for several GPUs, the heaviest one's memory at a
        smaller batch."""
        steps = {role.role: trace_step(work, role, role.batch, gpu=gpu) for role in work.roles}
        heaviest = max(work.roles, key=lambda role: steps[role.role].activations)
        less = max(1, heaviest.batch // 4)
        fixed: dict[Mode, float] = {}
        per_sample: dict[Mode, float] = {}
        for mode in MODES:
            many = steps[heaviest.role]
            if mode != "none":
                many = trace_step(work, heaviest, heaviest.batch, mode, gpu)
            slope = many.activations / heaviest.batch
            if gpu and less < heaviest.batch:  # a processor has the whole batch
                few = trace_step(work, heaviest, less, mode, gpu)
                grown = heaviest.batch - less
                slope = max(0.0, (many.activations - few.activations) / grown)
            per_sample[mode] = slope
            fixed[mode] = many.activations - slope * heaviest.batch
        return cls(work, count_parameters(work), steps, heaviest, fixed, per_sample)

    def role_flops(self, role: RoleWork) -> float:
        """FLOPs of a batch of one role: forward, backward, encoding of frames."""
        return self.steps[role.role].flops + role.batch * role.encoding_flops

    @property
    def flops(self) -> float:
        """FLOPs of an average step over all processes."""
        each = (role.share * self.role_flops(role) for role in self.work.roles)
        return self.work.accumulate * sum(each)

    @property
    def samples(self) -> float:
        """Samples of an average step over all processes."""
        return self.work.accumulate * sum(role.share * role.batch for role in self.work.roles)

    @property
    def tokens(self) -> float:
        """Denoised tokens of an average step over all processes."""
        tokens = sum(role.share * self.steps[role.role].tokens for role in self.work.roles)
        return self.work.accumulate * tokens

    @property
    def checkpoint_bytes(self) -> float:
        """Size of a checkpoint: weights, average, optimizer state."""
        return 2 * FP32 * self.parameters.total + self.parameters.state_bytes

    def memory(
        self, processes: int, strategy: Strategy, process_bytes: float, heap: float = 1.0
    ) -> Memory:
        """Memory of each of `processes`; `process_bytes` is what it takes beside tensors, `heap`
        what the allocator takes for a byte of these."""
        shards = processes if strategy == "fsdp" else 1
        # Casts of the weights are fixed; fsdp gathers blocks in their place.
        gathered = 0.0
        if shards > 1:  # two blocks' weights, the next one ahead, and one block's gradients
            width = 2 if self.work.precision == "bf16" else FP32
            gathered = self.parameters.largest_block * (2 * width + FP32)
        samples = self.heaviest.batch / processes
        kept: dict[Mode, float] = {
            mode: (0.0 if shards > 1 else self.fixed[mode]) + slope * samples
            for mode, slope in self.per_sample.items()
        }
        share = FP32 * self.parameters.total / shards
        gradients = FP32 * self.parameters.trained / shards
        updating = max(cost.updating for cost in self.steps.values()) / shards
        state = self.parameters.state_bytes / shards
        held = gradients if self.work.accumulate > 1 else 0.0
        tensors = share, share, state, gradients
        return Memory(*tensors, kept, gathered, process_bytes, updating, heap, held)

    def seconds(
        self, machine: Machine, processes: int, strategy: Strategy, mfu: dict[str, float]
    ) -> Seconds:
        """Time of an average step; `mfu` is that of each role."""
        peak = machine.flops[self.work.precision]
        compute = sum(
            role.share * self.role_flops(role) / (peak * mfu[role.role]) for role in self.work.roles
        )
        compute *= self.work.accumulate / processes
        shards = processes if strategy == "fsdp" else 1
        moved = UPDATE_BYTES * self.parameters.trained + AVERAGE_BYTES * self.parameters.total
        update = moved / shards / machine.bandwidth
        update += max(cost.optimizer_flops for cost in self.steps.values()) / peak
        exchanged = self._communication(machine, processes, strategy)
        hidden = compute if strategy == "fsdp" else 0.0
        return Seconds(compute, update, max(0.0, exchanged - hidden))

    def _communication(self, machine: Machine, processes: int, strategy: Strategy) -> float:
        """Seconds of a step's exchange at full bandwidth: in each node, then between nodes."""
        if processes == 1:
            return 0.0
        local = min(processes, GPUS_PER_NODE)
        nodes = processes / local
        total, gradients = self.parameters.total, FP32 * self.parameters.trained
        if strategy == "replicate":  # all-reduce = reduce-scatter + all-gather
            moved = 2 * gradients
        else:  # gather weights for forward, backward and the teacher; then scatter gradients
            width = 2 if self.work.precision == "bf16" else FP32
            moved = 3 * width * total * self.work.accumulate + gradients
        within = moved * (local - 1) / local / machine.link
        between = 0.0
        if nodes > 1:
            between = moved / local * (nodes - 1) / nodes / machine.network
        return within + between
