"""Convert windows of a data set to batches of tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from einops import repeat

from selfflow_robotics.batch import Batch
from selfflow_robotics.data.augment import AugmentConfig, augment
from selfflow_robotics.data.rlds.windows import WindowBatch
from selfflow_robotics.data.transfer import to_device
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.actions import Actions
from selfflow_robotics.modalities.base import ACTIONS, FRAMES, Codec, slot_of
from selfflow_robotics.modalities.latents import ImageLatents
from selfflow_robotics.objective.roles import Role
from selfflow_robotics.text.store import TextStore


def window_batch(
    windows: WindowBatch,
    codecs: Mapping[str, Codec],
    role: Role,
    device: torch.device,
    texts: TextStore | None = None,
    changes: AugmentConfig | None = None,
    generator: torch.Generator | None = None,
) -> Batch:
    """The windows as tokens for `role`; slots as in `objective.roles`.

    Frames are encoded here, unless they were encoded ahead of time (`data.rlds.latents`). Actions
    are omitted without a codec for them (in pretraining).

    Args:
        texts: embeddings of the instructions, for networks with a frozen text encoder.
        changes: augmentation of the images, drawn from `generator`.

    Raises UserError if latents should be augmented or are not for this codec.
    """
    codec: Any = codecs[FRAMES]
    frames, view = to_device(windows.frames, device), None
    active = changes if changes is not None and changes.active else None
    if frames.dtype == torch.float16:
        if active or not isinstance(codec, ImageLatents):
            raise UserError(
                "these windows contain latents, which cannot be augmented and can only be read by "
                "their own codec; turn augment off, or train on the images instead"
            )
        tokens = codec.to_tokens(frames)
    else:
        if active:
            assert generator is not None
            frames = augment(frames, active, generator)
        tokens, view = codec.encode(frames), codec.view(frames)
    per_frame = codec.tokens_per_step
    # A latent frame that covers several frames is valid if all of them are.
    whole = to_device(windows.frames_valid[:, 1:], device).unflatten(1, (-1, codec.stride)).all(-1)
    valid = repeat(whole, "b t -> b (t n)", n=per_frame)
    slots = {
        name: slot_of(name, codec, tokens[:, part], counts, None if view is None else view[:, part])
        for name, part, counts in (
            ("first_frame", slice(per_frame), None),
            ("later_frames", slice(per_frame, None), valid),
        )
    }
    acting = codecs.get(ACTIONS)
    if isinstance(acting, Actions):
        # Beyond an episode's end the actions are "hold still", which is worth learning, so all
        # actions are valid. Actions as input are exact; those to predict are clipped.
        clip = role.get("actions") == "noised"
        actions = acting.encode(torch.from_numpy(windows.actions), clip)
        slots["actions"] = slot_of("actions", acting, actions.to(device))
    if texts is None:
        return Batch(slots, windows.instruction)
    words, no_words = texts.lookup(windows.instruction), texts.no_words
    return Batch(slots, words.to(device), no_words=no_words.to(device))
