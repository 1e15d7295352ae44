"""Adapters: input and output layers for one kind of token.

Each kind (frames, actions, ...) has its own adapter; everything else is shared. For backbones with
absolute positions, the adapter also adds them: fixed ones within a frame, learned ones over time.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfflow_robotics.batch import Slot
from selfflow_robotics.errors import UserError
from selfflow_robotics.models.embeddings import PatchStem, sincos_positions_2d
from selfflow_robotics.models.layers import FinalLayer, zero
from selfflow_robotics.models.modulation import Modulation

PIXEL_CHANNELS = 3  # RGB


@dataclass(frozen=True)
class AdapterConfig:
    """One kind of token.

    A linear stem embeds each token separately. A convolutional stem embeds pixel patches, those of
    clean frames together (`PatchStem`).
    """

    channels: int  # C of a token
    stem: Literal["linear", "convolutional"] = "linear"
    grid: tuple[int, int] | None = None  # tokens per frame (rows, columns); None: no frames
    steps: int = 0  # number of learned time positions; 0: none
    # Patch size in px of the pixels (`Slot.view`) that a second, convolutional stem adds to clean
    # tokens; 0: clean tokens are embedded like noised ones.
    view_patch: int = 0
    # As in SiT: the last layer also predicts a variance, which flow matching ignores.
    learn_sigma: bool = False

    def __post_init__(self) -> None:
        if self.channels < 1 or min(self.steps, self.view_patch) < 0:
            raise UserError(
                "an adapter needs channels >= 1, steps >= 0 and view_patch >= 0, got "
                f"{self.channels}, {self.steps} and {self.view_patch}"
            )
        if self.view_patch and self.grid is None:
            raise UserError("an adapter that reads pixels needs a grid")
        if self.grid is not None and min(self.grid) < 1:
            raise UserError(f"an adapter's grid must be at least 1 x 1, got {self.grid}")
        if self.stem == "convolutional" and (
            self.grid is None or PIXEL_CHANNELS * self.patch**2 != self.channels
        ):
            raise UserError(
                "a convolutional stem reads square patches of RGB pixels on a grid, got "
                f"{self.channels} channels and grid {self.grid}"
            )

    def check(self, name: str, slot: Slot) -> None:
        """Raise UserError for tokens of a slot that this adapter was not made for."""
        if slot.tokens.shape[2] != self.channels:
            raise UserError(
                f"the tokens of {name} have {slot.tokens.shape[2]} channels, but this network was "
                f"made for {self.channels}"
            )
        if not (slot.places.is_cpu and len(slot.places)):  # a GPU would have to be waited for
            return
        sides = (self.steps or None, *(self.grid or (None, None)))
        for axis, side, low, high in zip(
            "thw", sides, slot.places.amin(0).tolist(), slot.places.amax(0).tolist(), strict=True
        ):
            if low < 0 or (side is not None and high >= side):
                raise UserError(
                    f"the places of {name} reach from {low} to {high} along {axis}, but this "
                    f"network was made for 0 to {'...' if side is None else side - 1}"
                )

    @property
    def patch(self) -> int:
        """Patch size in px, for a convolutional stem."""
        return isqrt(self.channels // PIXEL_CHANNELS)


class Adapter(nn.Module):
    """Embeds tokens, with positions, and reads predictions out of hidden tokens."""

    grid_positions: Tensor | None  # [h, w, D], fixed

    def __init__(self, config: AdapterConfig, width: int, absolute: bool) -> None:
        """`absolute`: add positions here (rotary backbones do not need them)."""
        super().__init__()
        self.config = config
        if config.stem == "convolutional":
            assert config.grid is not None
            self.stem = PatchStem(config.patch, PIXEL_CHANNELS, width, config.grid)
        else:
            self.stem = nn.Linear(config.channels, width)
            nn.init.xavier_uniform_(self.stem.weight)
            nn.init.zeros_(self.stem.bias)
        self.view_stem = None
        if config.view_patch:
            assert config.grid is not None
            self.view_stem = PatchStem(config.view_patch, PIXEL_CHANNELS, width, config.grid)
        grid = None
        if absolute and config.grid is not None:
            grid = sincos_positions_2d(width, *config.grid).view(*config.grid, width)
        self.register_buffer("grid_positions", grid, persistent=False)
        self.times = None
        if absolute and config.steps:
            self.times = nn.Parameter(0.02 * torch.randn(config.steps, width))
        self.final_layer = FinalLayer(width, config.channels * (1 + config.learn_sigma))

    def embed(self, slot: Slot, clean: bool) -> Tensor:
        """Embed the slot's tokens [G, N, C] as hidden tokens [G, N, D].

        Raises UserError if the adapter needs the pixels of clean tokens and they are missing.
        """
        stem = self.stem
        hidden = stem(slot.tokens, clean) if isinstance(stem, PatchStem) else stem(slot.tokens)
        if clean and self.view_stem is not None:
            if slot.view is None:
                raise UserError("this network also reads the pixels of clean frames; pass images")
            hidden = hidden + self.view_stem(slot.view, True)
        t, h, w = slot.places.unbind(dim=1)
        positions = None if self.grid_positions is None else self.grid_positions[h, w]
        if self.times is not None:
            times = F.embedding(t, self.times)  # its backward adds in a fixed order
            positions = times if positions is None else times + positions
        return hidden if positions is None else hidden + positions

    def read(self, hidden: Tensor, mod: Modulation, rows: Tensor | None = None) -> Tensor:
        """Predict tokens [G, N, C] from hidden tokens [G, N, D]; `rows`: `modulation_rows(mod)`, if
        already computed."""
        channels = self.config.channels if self.config.learn_sigma else None
        return self.final_layer(hidden, mod, channels, rows)

    def modulation_rows(self, mod: Modulation) -> Tensor:
        """The output of the last layer's adaLN for `mod.cond`: [G, V, 2 D]."""
        return self.final_layer.adaLN_modulation(mod.cond)

    def forget_output(self) -> None:
        """Zero the output layer, for tokens that are now predicted as a change of others."""
        zero(self.final_layer.linear)
