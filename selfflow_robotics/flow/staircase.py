"""Streaming: denoise a sequence as a staircase of timesteps, one finished token per evaluation.

Token i of N is at t = (i + 1) / N. One Euler step of 1 / N takes every token one stair down: the
first one is finished and leaves, and a new one enters as noise at t = 1 (as in arXiv 2607.26055).
Every token thus gets N evaluations, each with the newest observation.
"""

import torch
from torch import Tensor


def stairs(num_tokens: int, late: int = 0) -> Tensor:
    """Timesteps float32 [N], (i + 1 + late) / N and at most 1.

    `late`: evaluations until the first token is on its stair, N - 1 for a stream of pure noise.
    """
    return (torch.arange(1 + late, num_tokens + 1 + late) / num_tokens).clamp(max=1)


def descent(num_tokens: int, late: int = 0) -> Tensor:
    """What the tokens' timesteps lose in one evaluation, float32 [N]: 1 / N, or 0 for tokens that
    stay at t = 1."""
    return stairs(num_tokens, late) - stairs(num_tokens, late - 1)


def advance(tokens: Tensor, entering: Tensor) -> tuple[Tensor, Tensor]:
    """The finished tokens [B, C], and the tokens [B, N, C] that are left, followed by `entering`
    noise [B, C]."""
    return tokens[:, 0], torch.cat([tokens[:, 1:], entering[:, None]], dim=1)
