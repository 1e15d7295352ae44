"""The world model: predict the frames after a frame and a sequence of actions."""

import numpy as np
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.modalities.base import first_frame
from selfflow_robotics.rng import torch_generator


def imagine(
    bundle: Bundle,
    frames: np.ndarray,
    actions: np.ndarray,
    instructions: list[str],
    *,
    num_steps: int = 10,
    extrapolation: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """Imagined frames after each action, or after every n-th one for a network with frame stride n.

    Args:
        frames: current frames, uint8 [B, H, W, 3] at the network's image size.
        actions: policy vectors (`robot.actions`) in metres and radians, one for each control step:
            [B, F * n, 7]; F is at most the network's `most_imagined`.
        instructions: B texts.
        num_steps: solver steps.
        extrapolation: as in `inference.sample.sample`.

    Returns uint8 [B, F, H, W, 3].
    """
    codec, frames_codec = bundle.require("world_model"), bundle.frames
    num_frames, left_over = divmod(actions.shape[1], bundle.frame_stride)
    longest, stride = bundle.most_imagined, frames_codec.stride
    if left_over:
        raise UserError(
            f"this network imagines a frame for every {bundle.frame_stride} actions, and "
            f"{actions.shape[1]} is no multiple of that"
        )
    if not 1 <= num_frames <= longest or num_frames % stride:
        several = "" if stride == 1 else f", a multiple of {stride}"
        raise UserError(f"this network imagines 1 to {longest} frames{several}, not {num_frames}")
    present = first_frame(frames_codec, torch.from_numpy(frames).to(bundle.device))
    told = codec.encode(torch.from_numpy(np.asarray(actions, np.float32)), clip=False)
    clean = {"first_frame": present, "actions": bundle.slot("actions", told)}
    count = num_frames // stride * frames_codec.tokens_per_step
    shape = (len(frames), count, frames_codec.channels)
    noise = {"later_frames": torch.randn(shape, generator=torch_generator("imagination", seed))}
    later = bundle.ask(
        noise, clean, words=instructions, num_steps=num_steps, extrapolation=extrapolation
    )["later_frames"]
    # Video autoencoders can only decode later frames together with the first one.
    clip = frames_codec.decode(torch.cat([present.tokens, later], dim=1))
    return clip[:, 1:].cpu().numpy()


def psnr(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of uint8 images [..., H, W, 3], one value per image."""
    error = np.square(frames.astype(np.float64) - truth.astype(np.float64)).mean(axis=(-3, -2, -1))
    return 10 * np.log10(255.0**2 / np.maximum(error, 1e-12))
