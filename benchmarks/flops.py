"""How many floating-point operations a picture costs, counted on paper."""

from typing import NamedTuple

from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.models.network import NetworkConfig

FREQUENCIES = 256  # of the timestep embedding


class Flops(NamedTuple):
    """FLOPs of one picture; a multiplication with an addition counts as two."""

    forward: float  # of the student, no projector
    student: float  # forward and backward, with the projector
    teacher: float

    @property
    def step(self) -> float:
        return self.student + self.teacher


def flops(config: NetworkConfig, teacher_layer: int, plain: bool) -> Flops:
    """Matrix products of a training step for one picture of N tokens, width D, MLP ratio r.

        block:    N (8 D^2 + 4 r D^2) linears + 4 N^2 D attention + 12 D^2 rows modulation
        in, out:  2 N C D;  2 N C' D + 4 D^2 rows
        timestep: rows (2 * 256 D + 2 D^2)
        head:     8 N D^2, of the student in training
        rows:     2 N D rows for each of a block's 6 and the last layer's 2, added up in backward

    `rows` is how many timesteps are embedded: N in the plain code; 2 for the student and 1 for the
    teacher in the library, which also stops the teacher at its layer and leaves out the variance
    channels of the output (C' = C instead of 2 C). Backward costs twice the forward; only the first
    matrix of the tokens' and of the timesteps' way in needs no gradient of its input.
    """
    sit, frames = config.backbone, config.adapters[FRAMES]
    assert frames.grid is not None
    tokens, width, channels = frames.grid[0] * frames.grid[1], sit.width, frames.channels
    out = channels * (1 + (frames.learn_sigma and plain))

    def network(depth: int, rows: int, whole: bool) -> float:
        block = tokens * (8 + 4 * sit.mlp_ratio) * width**2 + 4 * tokens**2 * width
        total = depth * (block + 12 * width**2 * rows)
        total += 2 * tokens * channels * width + rows * (2 * FREQUENCIES + 2 * width) * width
        return total + whole * (2 * tokens * out * width + 4 * width**2 * rows)

    rows = tokens if plain else 2
    forward = network(sit.depth, rows, whole=True)
    unneeded = 2 * tokens * channels * width + rows * 2 * FREQUENCIES * width
    student = 3 * (forward + 8 * tokens * width**2) - unneeded
    if plain:
        return Flops(forward, student, network(sit.depth, tokens, whole=True))
    student += (6 * sit.depth + 2) * 2 * tokens * width * rows
    return Flops(forward, student, network(teacher_layer, 1, whole=False))
