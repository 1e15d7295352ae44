"""Data parallelism by PyTorch: replicated weights (DistributedDataParallel) or sharded (FSDP2).

    replicate   every process has all weights; gradients are averaged while the backward pass runs
    fsdp        every process has a part of each weight, its moving average, gradient and optimizer
                state, and gathers the weights of one block at a time (`fully_shard`)

A loss calls the student and the teacher several times and in part: a context, then noised tokens,
the head on features, a teacher that stops early. Both engines expect one forward pass per backward
pass, so what they wrap is a module whose forward pass is the whole loss.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from selfflow_robotics.errors import unknown
from selfflow_robotics.training.activations import blocks_of
from selfflow_robotics.training.distributed import Ranks
from selfflow_robotics.training.step import LossFunction, StepLoss, over_all_tokens

Parallel = Literal["replicate", "fsdp"]


def check_parallel(setting: str) -> None:
    """Raise UserError for an unknown `train.parallel`."""
    if setting not in get_args(Parallel):
        raise unknown("train.parallel", setting, get_args(Parallel))


class DataParallel:
    """Student and teacher on all processes; in a single one, nothing but the networks."""

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        loss: LossFunction,
        parallel: Parallel,
        ranks: Ranks,
        precision: str,
    ) -> None:
        """For `fsdp`, shards both networks in place: their parameters become DTensors."""
        self._ranks = ranks
        self.sharded = parallel == "fsdp" and ranks.size > 1
        self._module: nn.Module = _Loss(model, teacher, loss)
        if self.sharded:
            _shard(self._module, model, teacher, ranks, precision)
        elif ranks.size > 1:
            # Which parameters a step uses depends on its role, so the graph is not static. DDP then
            # asks the graph which gradients will not come, and leaves those of parameters that no
            # process used at None, so that the optimizer skips them, as in a single process. It is
            # the class and not the composable `replicate`, which is not part of the public API.
            self._module = DistributedDataParallel(
                self._module, find_unused_parameters=True, gradient_as_bucket_view=True
            )

    def loss(self, batch: Any, generator: torch.Generator) -> StepLoss:
        """The loss of a batch. Its gradients are for the mean over all tokens of all processes."""
        return over_all_tokens(self._module(batch, generator), self._ranks)

    @contextmanager
    def accumulating(self, more: bool) -> Iterator[None]:
        """A context for the loss and the backward pass of a batch. If `more` batches of the step
        follow, gradients are not yet averaged over the processes."""
        if isinstance(self._module, DistributedDataParallel) and more:
            with self._module.no_sync():
                yield
            return
        if isinstance(self._module, FSDPModule):
            self._module.set_requires_gradient_sync(not more)
        yield

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """All weights whole in every process, so that one can evaluate the networks alone. Not
        between a loss and its backward pass."""
        if not isinstance(self._module, FSDPModule):
            yield
            return
        parts = [part for part in self._module.modules() if isinstance(part, FSDPModule)]
        self._module.set_reshard_after_forward(False)
        for part in parts:
            part.unshard()
        yield
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not self._module, recurse=False)
            # FSDP gathers blocks for a backward pass in the reverse order of all forward passes
            # since the last one. Those of an evaluation, which other processes may not have made,
            # must not count: the processes would wait for each other forever. No public method
            # forgets them.
            part._get_fsdp_state()._comm_ctx.post_forward_order.clear()


class _Loss(nn.Module):
    """A loss as a module, with the networks that it calls."""

    def __init__(self, model: nn.Module, teacher: nn.Module, loss: LossFunction) -> None:
        super().__init__()
        self.model, self.teacher, self.loss = model, teacher, loss

    def forward(self, batch: Any, generator: torch.Generator) -> StepLoss:
        return self.loss(batch, generator)

    def touch(self) -> None:
        """A forward pass without a loss."""


def _shard(
    root: "_Loss", model: nn.Module, teacher: nn.Module, ranks: Ranks, precision: str
) -> None:
    """Shard every block of both networks, and the rest of them as one group.

    In bf16, the student's blocks are gathered as bfloat16, to which autocast would round their
    weights. Gradients are summed in float32 and the weights stay float32. The teacher is gathered
    in float32, since evaluations use it without autocast too.
    """
    # Keys and values are views; nothing changes them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    mesh = init_device_mesh(next(model.parameters()).device.type, (ranks.size,))
    plain = MixedPrecisionPolicy(cast_forward_inputs=False)
    rounded = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for network, policy in ((model, rounded if precision == "bf16" else plain), (teacher, plain)):
        for block in blocks_of(network):
            fully_shard(block, mesh=mesh, mp_policy=policy)
            if hasattr(block, "key_value"):  # all that a context needs of the last block
                register_fsdp_forward_method(block, "key_value")
    # Embeddings and heads stay gathered from the start of the loss to the end of the backward pass.
    sharded = fully_shard(root, mesh=mesh, mp_policy=plain, reshard_after_forward=False)
    # FSDP finds its root in the first forward pass, which must not be an evaluation of a block.
    register_fsdp_forward_method(root, "touch")
    with torch.no_grad():
        root.touch()
    sharded.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A DTensor gathered from all processes; any other tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
