"""Analytic FLOP counts per image."""

from math import prod
from typing import NamedTuple

from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.network import NetworkConfig
from selfflow_robotics.models.sit import SiTConfig

FREQUENCIES = 256  # size of the timestep embedding


class Flops(NamedTuple):
    """FLOPs of one image; a multiply-add counts as two."""

    forward: float  # of the student, no projector
    student: float  # forward and backward, with the projector
    teacher: float

    @property
    def step(self) -> float:
        return self.student + self.teacher


class _Blocks(NamedTuple):
    """What a backbone's blocks multiply, in units of D^2 (and `gathers` in rows of width D)."""

    linears: float  # for each token of each block
    modulation: float  # for each row of each block
    shared_modulation: float  # for each row, once for all blocks
    idle_modulation: float  # the same where no token reads it: no backward
    gathers: int  # sums by row in all backward passes


def _blocks(backbone: SiTConfig | FluxConfig, plain: bool) -> _Blocks:
    if isinstance(backbone, SiTConfig):
        return _Blocks(8 + 4 * backbone.mlp_ratio, 12, 0, 0, 6 * backbone.depth)
    idle = 0 if plain else 12  # the conditioning stream's: labelled images have no words
    gathers = 6 * backbone.double + 3 * backbone.single
    return _Blocks(8 + 6 * backbone.mlp_ratio, 0, 18, idle, gathers)


def flops(config: NetworkConfig, teacher_layer: int, plain: bool) -> Flops:
    """Matrix products of a training step for one image of N tokens, width D, MLP ratio r.

        SiT:      N (8 D^2 + 4 r D^2) linears + 4 N^2 D attention + 12 D^2 rows modulation a block
        FLUX:     N (8 D^2 + 6 r D^2) linears + 4 N^2 D attention a block, modulation once for all
        in, out:  2 N C D;  2 N C' D + 4 D^2 rows
        timestep: rows (2 * 256 D + 2 D^2)
        head:     8 N D^2, of the student in training
        rows:     2 N D rows for each of a block's 6 (3 of a single-stream one) and the last layer's
                  2, added up in backward

    `rows` is how many timesteps are embedded: N in the plain code; 2 for the student and 1 for the
    teacher in the library, which also stops the teacher at its layer and leaves out the variance
    channels of the output (C' = C instead of 2 C). Backward costs twice the forward; only the first
    matrix of the tokens' and of the timesteps' way in needs no gradient of its input.
    """
    backbone, adapter = config.backbone, config.adapters[FRAMES]
    assert adapter.grid is not None
    tokens, width, channels = prod(adapter.grid), backbone.width, adapter.channels
    out, blocks = channels * (1 + (adapter.learn_sigma and plain)), _blocks(backbone, plain)

    def network(depth: int, rows: int, whole: bool) -> float:
        block = tokens * blocks.linears * width**2 + 4 * tokens**2 * width
        total = depth * (block + blocks.modulation * width**2 * rows)
        total += (blocks.shared_modulation + blocks.idle_modulation) * width**2 * rows
        total += 2 * tokens * channels * width + rows * (2 * FREQUENCIES + 2 * width) * width
        return total + whole * (2 * tokens * out * width + 4 * width**2 * rows)

    rows = tokens if plain else 2
    forward = network(backbone.depth, rows, whole=True)
    unneeded = 2 * tokens * channels * width + rows * 2 * FREQUENCIES * width
    unneeded += 2 * blocks.idle_modulation * width**2 * rows
    student = 3 * (forward + 8 * tokens * width**2) - unneeded
    if plain:
        return Flops(forward, student, network(backbone.depth, tokens, whole=True))
    student += (blocks.gathers + 2) * 2 * tokens * width * rows
    return Flops(forward, student, network(teacher_layer, 1, whole=False))
