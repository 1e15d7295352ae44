"""Windows of a data set as tokens: the way from `data.rlds` to `objective`."""

import torch
from einops import repeat
from torch import Tensor

from selfflow_robotics.autoencoders.pixel import PixelAutoencoder
from selfflow_robotics.data.augment import AugmentConfig, augment
from selfflow_robotics.data.rlds.windows import WindowBatch
from selfflow_robotics.data.transfer import to_device
from selfflow_robotics.objective.role_loss import Sample
from selfflow_robotics.objective.roles import Role
from selfflow_robotics.robot.normalize import ActionNormalizer


def window_sample(
    batch: WindowBatch,
    autoencoder: PixelAutoencoder,
    normalizer: ActionNormalizer | None,
    role: Role,
    device: torch.device,
    changes: AugmentConfig | None = None,
    generator: torch.Generator | None = None,
) -> Sample:
    """Tokens of a batch of windows that plays `role`; slots as in `objective.roles`.

    Actions that the role is given are exact, those that it must predict are clipped to the range
    of `normalizer`; None leaves the actions out (pretraining sees pictures only). `changes` are
    made to the pictures, drawn from `generator`.
    """
    frames = to_device(batch.frames, device)
    if changes is not None and changes.active:
        assert generator is not None
        frames = augment(frames, changes, generator)
    per_frame = autoencoder.tokens_per_frame
    pixels = autoencoder.encode(frames)
    later_valid = to_device(batch.frames_valid[:, 1:], device)
    tokens: dict[str, Tensor] = {
        "first_frame": pixels[:, :per_frame],
        "later_frames": pixels[:, per_frame:],
    }
    valid = {"later_frames": repeat(later_valid, "b t -> b (t n)", n=per_frame)}
    if normalizer is not None:
        # Beyond an episode's end the chunk says "hold still": worth learning, so it counts whole.
        given = role.actions == "clean"
        scale = normalizer.normalize if given else normalizer.normalize_target
        tokens["actions"] = scale(torch.from_numpy(batch.actions)).to(device)
    return Sample(tokens, valid, batch.instruction)
