"""The world model at work: from one picture and a sequence of actions, the pictures to come."""

import numpy as np
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.world.answer import answer
from selfflow_robotics.world.network import Network


def imagine(
    network: Network,
    frames: np.ndarray,
    actions: np.ndarray,
    instructions: list[str],
    *,
    num_steps: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """Imagined frames after each action.

    Args:
        frames: the present pictures, uint8 [B, H, W, 3] at the network's image size.
        actions: policy vectors (`robot.actions`) in metres and radians, [B, F, 7]; F at most the
            network's `later_frames`.
        instructions: B texts.
        num_steps: solver steps.

    Returns uint8 [B, F, H, W, 3].
    """
    model, device = network.model, network.device
    normalizer = network.require("world_model")
    num_frames = actions.shape[1]
    longest = min(model.config.later_frames, model.config.action_horizon)
    if not 1 <= num_frames <= longest:
        raise UserError(f"this network imagines 1 to {longest} frames at once, not {num_frames}")
    autoencoder = model.autoencoder
    first = autoencoder.encode(torch.from_numpy(frames)[:, None].to(device))
    vectors = torch.from_numpy(np.asarray(actions, np.float32))
    clean = {"first_frame": first, "actions": normalizer.normalize(vectors).to(device)}
    shape = (len(frames), num_frames * autoencoder.tokens_per_frame, autoencoder.token_channels)
    noise = torch.randn(shape, generator=torch_generator("imagination", seed)).to(device)
    tokens = answer(model, clean, instructions, {"later_frames": noise}, num_steps=num_steps)
    return autoencoder.decode(tokens["later_frames"]).cpu().numpy()


def psnr(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of uint8 pictures [..., H, W, 3], one number a picture."""
    error = np.square(frames.astype(np.float64) - truth.astype(np.float64)).mean(axis=(-3, -2, -1))
    return 10 * np.log10(255.0**2 / np.maximum(error, 1e-12))
