"""A run of pretrain/media.py as the frozen encoder of another one: REPA on clips and sounds."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from selfflow_robotics.encoders.load import load_run
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import weights_hash
from selfflow_robotics.inference.generate_media import codecs_for
from selfflow_robotics.modalities.base import slot_of
from selfflow_robotics.timesteps import Timesteps

KIND = "run:"


class MediaEncoder:
    """Features of a run's network, of clean tokens at t = 0 without words.

    It reads the tokens themselves, so both runs need the same latents and patches.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        """From run:PATH[@LAYER]. Raises UserError for other encoders, and as `load_run`."""
        if not name.startswith(KIND):
            raise UserError(
                f"the encoder of clips and sounds must be a run of pretrain/media.py, not {name}; "
                f"give encoder={KIND}PATH"
            )
        self._bundle, self._layer = load_run(name.removeprefix(KIND), device)
        self._bundle.network.requires_grad_(False)
        self.channels = self._bundle.network.config.backbone.width

    @property
    def fingerprint(self) -> str:
        """Equal for encoders with the same features, and only for these."""
        return f"{weights_hash(self._bundle.origin)}@{self._layer}"

    def check(self, codecs: Mapping[str, Any], places: Mapping[str, tuple[int, int, int]]) -> None:
        """Raise UserError unless the run has these codecs, and as many places in time."""
        adapters = self._bundle.network.config.adapters
        for name, codec in codecs.items():
            if self._bundle.codecs.get(name) != codec:
                raise UserError(
                    f"the encoder {self._bundle.origin} was not trained on these latents of {name} "
                    "in these patches; choose a run of pretrain/media.py with the same data"
                )
            if 0 < adapters[name].steps < places[name][0]:
                raise UserError(
                    f"the encoder {self._bundle.origin} was trained on {adapters[name].steps} "
                    f"steps of {name}, these have {places[name][0]}; choose a run of "
                    "pretrain/media.py with the same data"
                )

    @torch.no_grad()
    def __call__(self, tokens: dict[str, Tensor], role: str) -> Tensor:
        """Features [G, N of all slots, D] of the clean tokens [G, N, C] of a role's slots."""
        bundle, count = self._bundle, len(next(iter(tokens.values())))
        codecs, kinds = codecs_for(bundle.codecs, role), bundle.network.config.slots
        slots = {slot: slot_of(slot, codecs[kinds[slot]], x) for slot, x in tokens.items()}
        context = bundle.network.encode_context(
            {}, bundle.words([""] * count), attention=bundle.attention
        )
        clean = torch.cat([x[..., :1] for x in tokens.values()], dim=1)
        timesteps = Timesteps.constant(0, clean)
        _, features = bundle.network(slots, timesteps, context, (self._layer,), stop=True)
        return features[self._layer].float()
