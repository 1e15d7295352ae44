"""How alike student and teacher are, layer by layer: what a run's page draws of its pretraining."""

import torch
import torch.nn.functional as F
from torch import Tensor

from selfflow_robotics.objective.dual_timestep import TokenTimesteps
from selfflow_robotics.objective.self_flow import Network, at_timesteps

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)


@torch.no_grad()
def cosine_by_layer(
    student: Network,
    teacher: Network,
    noised: dict[str, Tensor],
    depth: int,
    generator: torch.Generator,
) -> dict[str, list[float]]:
    """Mean cosine of both networks' raw features after each block, `cosine_by_layer/t=...`.

    At each of LEVELS half of the tokens stand at t and the rest at t / 2; the teacher sees all at
    t / 2, with the same noise. For a few samples at a time: features of all layers are kept.

    Args:
        student, teacher: as in `self_flow_loss`.
        noised: clean tokens of each slot, [G, N_slot, D_slot].
        depth: blocks of the network; the lists have as many values, the first block's first.
    """
    first = next(iter(noised.values()))
    size, num_tokens = len(first), sum(x.shape[1] for x in noised.values())
    noise = {
        slot: torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        for slot, x in noised.items()
    }
    drawn = torch.rand(size, num_tokens, generator=generator, device=first.device)
    layers = tuple(range(1, depth + 1))
    found = {}
    for t in LEVELS:
        values = torch.tensor([t / 2, t], device=first.device).expand(size, 2)
        mixed = TokenTimesteps(values, (drawn < 0.5).long())
        cleaner = TokenTimesteps(values[:, :1], torch.zeros_like(mixed.index))
        sides = []
        for network, tau in ((student, mixed), (teacher, cleaner)):
            x_t, _ = at_timesteps(tau, noised, noise)
            sides.append(network(x_t, (tau.values, tau.index), layers)[1])
        found[f"cosine_by_layer/t={t:g}"] = [
            F.cosine_similarity(*(side[layer].float() for side in sides), dim=-1).mean().item()
            for layer in layers
        ]
    return found
