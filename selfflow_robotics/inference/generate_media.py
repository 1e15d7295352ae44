"""Generate numbered clips, sounds, clips with sound, and images beside them, from texts.

The k-th sample is a function of (seed, k), as in `inference.generate`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfflow_robotics.batch import Slot
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.inference.generate import Sampling
from selfflow_robotics.inference.sample import SeededNormal
from selfflow_robotics.inference.velocity import check_heads
from selfflow_robotics.modalities.base import FRAMES, SOUND
from selfflow_robotics.objective.roles import FRAME_SLOTS, ROLES, modality_of

Sample = dict[str, np.ndarray]  # "picture" uint8 [H, W, 3], "frames" uint8 [T, H, W, 3], "sound"


class NumberedMedia:
    """Samples of one role of a run of pretrain/media.py.

    Sample k has the k-th of `prompts`, repeated, and, if the role continues a frame or adds a sound
    to a clip, the k-th of `given`, repeated. Raises UserError for a role that the network was not
    trained on, for missing clips, and for extrapolation without auxiliary heads.
    """

    def __init__(
        self,
        bundle: Bundle,
        sampling: Sampling,
        seed: int,
        role: str,
        prompts: Sequence[str],
        given: np.ndarray | None = None,
    ) -> None:
        """`given`: clips uint8 [K, T, H, W, 3]. The bundle's codecs must have their
        autoencoders."""
        self.size = media_size(bundle, role)
        check_heads(bundle.network, sampling.extrapolation)
        self._role, self._prompts, self._given = ROLES[role], prompts, given
        if given is None and "clean" in self._role.values():
            raise UserError(f"the role {role} continues clips; give some: --given FOLDER")
        bundle = bundle.in_bfloat16() if sampling.precision == "bf16" else bundle
        bundle = replace(bundle, codecs=codecs_for(bundle.codecs, role))
        self._bundle, self._sampling, self._seed = bundle, sampling, seed

    def prompt(self, number: int) -> str:
        """The text of a sample."""
        return self._prompts[number % len(self._prompts)]

    def __call__(self, numbers: Sequence[int]) -> list[Sample]:
        """The samples with these numbers."""
        bundle, how = self._bundle, self._sampling
        normal = SeededNormal([self._seed << 32 | number for number in numbers], bundle.device)
        clean = self._clean(numbers)
        noised = [slot for slot, part in self._role.items() if part == "noised"]
        try:
            tokens = bundle.ask(
                {slot: normal(self._shape(slot, len(numbers))) for slot in noised},
                clean,
                words=[self.prompt(number) for number in numbers],
                normal=normal,
                method=how.method,
                num_steps=how.num_steps,
                guidance_scale=how.guidance_scale,
                guidance_interval=how.guidance_interval,
                extrapolation=how.extrapolation,
                shift=how.shift,
            )
            if not all(x.isfinite().all() for x in tokens.values()):
                raise UserError(
                    "the network's output is not finite; check its weights or use precision=fp32"
                )
            tokens = {slot: x.tokens for slot, x in clean.items()} | tokens
            parts = self._decode(tokens)
        except torch.OutOfMemoryError as error:
            raise UserError("the device is out of memory; lower batch_size") from error
        return [{name: part[k] for name, part in parts.items()} for k in range(len(numbers))]

    def _shape(self, slot: str, count: int) -> torch.Size:
        codec = self._bundle.codecs[self._bundle.network.config.slots[slot]]
        steps = {
            "later_frames": self.size.get("steps", 1) - 1,
            "sound": self.size.get("sound_steps", 0),
        }.get(slot, 1)
        return torch.Size([count, steps * codec.tokens_per_step, codec.channels])

    def _clean(self, numbers: Sequence[int]) -> dict[str, Slot]:
        """The given slots."""
        slots = [slot for slot, part in self._role.items() if part == "clean"]
        if not slots or self._given is None:
            return {}
        clips = self._given[[number % len(self._given) for number in numbers]]
        codec: Any = self._bundle.frames
        seen = torch.from_numpy(clips if "later_frames" in slots else clips[:, :1])
        tokens, first = codec.encode(seen.to(self._bundle.device)), codec.tokens_per_step
        parts = {"first_frame": tokens[:, :first], "later_frames": tokens[:, first:]}
        return {slot: self._bundle.slot(slot, parts[slot]) for slot in slots}

    def _decode(self, tokens: dict[str, Tensor]) -> dict[str, np.ndarray]:
        codecs: Any = self._bundle.codecs
        parts = {}
        if frames := [tokens[slot].float() for slot in FRAME_SLOTS if slot in tokens]:
            parts["frames"] = codecs[FRAMES].decode(torch.cat(frames, dim=1))
        if "picture" in tokens:
            name = self._bundle.network.config.slots["picture"]
            parts["picture"] = codecs[name].decode(tokens["picture"])[:, 0]
        if "sound" in tokens:
            parts["sound"] = codecs[SOUND].decode(tokens["sound"].float())
        return {name: part.cpu().numpy() for name, part in parts.items()}


def codecs_for(codecs: Mapping[str, Any], role: str) -> dict[str, Any]:
    """The codecs in a role: the places of sounds alone are not those beside frames."""
    if role != "sound":
        return dict(codecs)
    return {**codecs, SOUND: replace(codecs[SOUND], frame_rate=None)}


def media_size(bundle: Bundle, role: str) -> dict[str, Any]:
    """The sizes of a role's samples: its (latent) frames ("steps"), "fps", and latents of sound
    ("sound_steps"). Raises UserError for a role that the network was not trained on."""
    modality = modality_of(role)
    sizes = bundle.provenance.get("media")
    if not isinstance(sizes, dict):
        raise UserError(f"{bundle.origin} is no run of pretrain/media.py; use eval/generation.py")
    if role not in bundle.roles or modality not in sizes:
        raise UserError(
            f"{bundle.origin} was trained with the roles {', '.join(bundle.roles)}, not {role}"
        )
    return sizes[modality]


def clip_frames(bundle: Bundle, size: dict[str, Any]) -> int:
    """T, frames of a clip of this `media_size`."""
    return 1 + (size["steps"] - 1) * bundle.frames.stride
