"""Cosine similarity of student and teacher features by layer, for the run page."""

import torch
import torch.nn.functional as F

from selfflow_robotics.batch import Batch
from selfflow_robotics.objective.loss import ContextNetwork, ask
from selfflow_robotics.objective.roles import Role, arrange
from selfflow_robotics.objective.self_flow import at_timesteps
from selfflow_robotics.timesteps import Timesteps

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)


@torch.no_grad()
def cosine_by_layer(
    network: ContextNetwork,
    teacher: ContextNetwork,
    batch: Batch,
    role: Role,
    generator: torch.Generator,
) -> dict[str, list[float]]:
    """Mean cosine of both networks' raw features after each block, as `cosine_by_layer/t=...`.

    At each of LEVELS, half of the noised tokens are at t and the rest at t / 2; the teacher sees
    all at t / 2, with the same noise. Use few samples, as the features of all layers are stored.

    Args:
        network, teacher, batch, role: as in `loss`. The lists have one value per block.
    """
    clean, to_denoise = arrange(role, batch.slots)
    sides = [
        ask(one, to_denoise, one.encode_context(clean, batch.words, labels=batch.labels), stop=True)
        for one in (network, teacher)
    ]
    tokens = {slot: x.tokens for slot, x in to_denoise.items()}
    first = next(iter(tokens.values()))
    size, num_tokens = len(first), sum(x.shape[1] for x in tokens.values())
    noise = {
        slot: torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        for slot, x in tokens.items()
    }
    drawn = torch.rand(size, num_tokens, generator=generator, device=first.device)
    layers = tuple(range(1, network.config.backbone.depth + 1))
    found = {}
    for t in LEVELS:
        values = torch.tensor([t / 2, t], device=first.device).expand(size, 2)
        mixed = Timesteps(values, (drawn < 0.5).long())
        cleaner = Timesteps(values[:, :1], torch.zeros_like(mixed.index))
        features = [
            side(at_timesteps(tau, tokens, noise)[0], tau, layers)[1]
            for side, tau in zip(sides, (mixed, cleaner), strict=True)
        ]
        found[f"cosine_by_layer/t={t:g}"] = [
            F.cosine_similarity(*(side[layer].float() for side in features), dim=-1).mean().item()
            for layer in layers
        ]
    return found
