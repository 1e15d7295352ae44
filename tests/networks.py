"""Small networks for tests, and their questions in one line."""

import torch

from selfflow_robotics.batch import Slot, frame_places, step_places
from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.models.network import Network
from selfflow_robotics.timesteps import Timesteps


def waken(network: Network, std: float = 0.05) -> Network:
    """adaLN-Zero would hide every difference: modulation and outputs drawn at random."""
    for name, p in network.named_parameters():
        if "adaLN" in name or "final_layer" in name:
            torch.nn.init.normal_(p, std=std)
    return network


def frames_slot(network: Network, tokens: torch.Tensor, first: int = 0) -> Slot:
    """Tokens [B, T N, C] of whole frames, from the frame `first` on."""
    grid = network.config.adapters[FRAMES].grid
    assert grid is not None
    return Slot(tokens, frame_places(grid, tokens.shape[1] // (grid[0] * grid[1]), first))


def as_slots(network: Network, tokens: dict[str, torch.Tensor]) -> dict[str, Slot]:
    """Tokens by the names of the robot network's slots, with their places."""
    return {
        name: Slot(x, step_places(x.shape[1]))
        if name == "actions"
        else frames_slot(network, x, first=int(name == "later_frames"))
        for name, x in tokens.items()
    }


def ask_image(network, tokens, timesteps, labels=None, layers=(), **settings):
    """(velocity or None, features) of an image network for noised tokens of one image."""
    context = network.encode_context({}, labels=labels)
    slots = {"first_frame": frames_slot(network, tokens)}
    outputs, features = network(slots, Timesteps(*timesteps), context, layers, **settings)
    return outputs.get("first_frame"), features
