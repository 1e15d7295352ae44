"""Windows of a data set as tokens: the way from `data.rlds` to `objective`."""

from collections.abc import Mapping

import torch
from einops import repeat

from selfflow_robotics.batch import Batch
from selfflow_robotics.data.augment import AugmentConfig, augment
from selfflow_robotics.data.rlds.windows import WindowBatch
from selfflow_robotics.data.transfer import to_device
from selfflow_robotics.modalities.actions import Actions
from selfflow_robotics.modalities.base import ACTIONS, FRAMES, Codec, slot_of
from selfflow_robotics.objective.roles import Role


def window_batch(
    windows: WindowBatch,
    codecs: Mapping[str, Codec],
    role: Role,
    device: torch.device,
    changes: AugmentConfig | None = None,
    generator: torch.Generator | None = None,
) -> Batch:
    """Tokens of a batch of windows that plays `role`; slots as in `objective.roles`.

    Without a codec of actions these are left out (pretraining sees pictures only). `changes` are
    made to the pictures, drawn from `generator`.
    """
    frames = to_device(windows.frames, device)
    if changes is not None and changes.active:
        assert generator is not None
        frames = augment(frames, changes, generator)
    codec = codecs[FRAMES]
    per_frame = codec.tokens_per_step
    tokens = codec.encode(frames)
    valid = repeat(to_device(windows.frames_valid[:, 1:], device), "b t -> b (t n)", n=per_frame)
    slots = {
        "first_frame": slot_of("first_frame", codec, tokens[:, :per_frame]),
        "later_frames": slot_of("later_frames", codec, tokens[:, per_frame:], valid),
    }
    acting = codecs.get(ACTIONS)
    if isinstance(acting, Actions):
        # Beyond an episode's end the chunk says "hold still": worth learning, so it counts whole.
        # What the network is told was done, it is told exactly; what it must say is on the scale.
        clip = role.get("actions") == "noised"
        actions = acting.encode(torch.from_numpy(windows.actions), clip)
        slots["actions"] = slot_of("actions", acting, actions.to(device))
    return Batch(slots, windows.instruction)
