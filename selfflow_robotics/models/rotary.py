"""Rotary positions in three dimensions: time, height, width (RoFormer, arXiv 2104.09864).

Each pair of a head's channels is rotated by an angle proportional to the token's position on one
axis. The product of a query and a key then depends only on the relative position of their tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

THETA = 2000.0  # as in FLUX.2; pair i of n on an axis rotates by THETA ** (-i / n) per position
AXES = 3
EPS = 1e-6


def axis_channels(head_size: int) -> tuple[int, int, int]:
    """Channels of a head for (t, h, w): 24 each at head size 72, as in the paper.

    Other even sizes are split as evenly as possible; leftover pairs go to w, then h.
    """
    pairs, left = divmod(head_size // 2, AXES)
    return 2 * pairs, 2 * (pairs + (left == 2)), 2 * (pairs + (left >= 1))


def rotary_turns(places: Tensor, head_size: int) -> Tensor:
    """(cosine, sine) of each pair's angle, [N, d / 2, 2], for tokens at `places` int64 [N, 3]."""
    angles = []
    for axis, channels in enumerate(axis_channels(head_size)):
        order = torch.arange(channels // 2, device=places.device) / (channels // 2)
        angles.append(places[:, axis, None] * THETA**-order)
    angle = torch.cat(angles, dim=1)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def norm_and_turn(x: Tensor, weight: Tensor, turns: Tensor) -> Tensor:
    """RMS-normalize queries or keys [..., N, d], scale by `weight` [..., d], rotate by `turns`.

    Always computed in float32, which the angles need.
    """
    pairs = (F.rms_norm(x.float(), x.shape[-1:], eps=EPS) * weight).unflatten(-1, (-1, 2))
    # Complex numbers are fast on a CPU, but compilers do not fuse them.
    if torch.compiler.is_compiling():
        (first, second), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    return turned.flatten(-2).to(x.dtype)
