"""Small networks for tests, and their questions in one line."""

from pathlib import Path

import torch

from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.batch import Slot, frame_places, step_places
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.modalities.actions import Actions
from selfflow_robotics.modalities.base import ACTIONS, FRAMES
from selfflow_robotics.modalities.latents import ImageLatents
from selfflow_robotics.models.network import Network, NetworkConfig
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.timesteps import Timesteps


def waken(network: Network, std: float = 0.05) -> Network:
    """adaLN-Zero would hide every difference: modulation and outputs drawn at random."""
    for name, p in network.named_parameters():
        if "adaLN" in name or "final_layer" in name or name.startswith("auxiliary."):
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


def robot_codecs(config: RobotConfig, stats=None):
    """Of frames, and of actions where their statistics are known."""
    codecs = {FRAMES: config.codec()}
    return codecs if stats is None else {**codecs, ACTIONS: Actions(stats)}


def robot_network(config: RobotConfig, feature_channels=None, **parts) -> NetworkConfig:
    return config.network(config.codec(), feature_channels=feature_channels, **parts)


def record(config: NetworkConfig, codecs, roles, provenance=None):
    """What a checkpoint says of a network of this shape."""
    meta = torch.device("meta")  # without weights, so nothing is drawn
    with meta:
        network = Network(config)
    return Bundle(network, codecs, tuple(roles), provenance or {}, Path("run"), meta).record()


def robot_record(config: RobotConfig, roles, stats=None, provenance=None, feature_channels=None):
    """What a checkpoint of pretrain/run.py or finetune/rt1.py says of its network."""
    codecs, network = robot_codecs(config, stats), robot_network(config, feature_channels)
    return record(network, codecs, roles, provenance)


def robot_bundle(config: RobotConfig, network: Network, roles, stats=None) -> Bundle:
    codecs = robot_codecs(config, stats)
    return Bundle(network.eval(), codecs, tuple(roles), {}, Path("run"), torch.device("cpu"))


def pixel_latents(config: NetworkConfig, patch: int, fingerprint: str | None = "pixel"):
    """The codec of an image network whose latents are the pixels."""
    frames = config.adapters[FRAMES]
    height, width = (side * patch for side in frames.grid)
    channels = frames.channels // patch**2
    return ImageLatents(
        (height, width), channels, patch, AutoencoderConfig("pixel"), fingerprint, 1
    )


def image_record(config: NetworkConfig, patch: int, provenance=None, fingerprint="pixel"):
    """What a checkpoint of pretrain/images.py says of its network."""
    codecs = {FRAMES: pixel_latents(config, patch, fingerprint)}
    return record(config, codecs, ["image"], provenance)


def image_bundle(network: Network, patch: int, fingerprint: str | None = "pixel") -> Bundle:
    """With its autoencoder, ready to make pictures."""
    codec = pixel_latents(network.config, patch, fingerprint).load("cpu")
    cpu = torch.device("cpu")
    return Bundle(network.eval(), {FRAMES: codec}, ("image",), {}, Path("run"), cpu)
