"""Adapters: the way of one kind of token into the transformer and out of it.

Every kind (frames, actions, ...) has its own adapter, all else is shared. Where the backbone has no
positions of its own, the adapter adds them: fixed ones for the place in a frame, learned ones for
the time.
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

PIXEL_CHANNELS = 3  # of the patches that a convolutional stem reads


@dataclass(frozen=True)
class AdapterConfig:
    """One kind of token.

    A linear stem reads every token for itself. A convolutional one reads pixel patches, clean
    frames as a whole (`PatchStem`).
    """

    channels: int  # C of a token
    stem: Literal["linear", "convolutional"] = "linear"
    grid: tuple[int, int] | None = None  # tokens of a frame (vertically, horizontally), if any
    steps: int = 0  # places in time that have a learned position; 0: time has no effect
    # Side in px of the pixel patches that clean tokens are read from too (`Slot.view`), by a
    # convolutional stem of their own; 0: clean tokens are read like noised ones.
    view_patch: int = 0
    # SiT's habit: the last layer has as many rows again for a variance that flow matching ignores.
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
        """Side of the square of RGB pixels that a token of a convolutional stem holds."""
        return isqrt(self.channels // PIXEL_CHANNELS)


class Adapter(nn.Module):
    """Tokens to hidden tokens with their positions, and hidden tokens to tokens."""

    grid_positions: Tensor | None  # [h, w, D], fixed

    def __init__(self, config: AdapterConfig, width: int, absolute: bool) -> None:
        """`absolute`: whether positions are added here; a rotary backbone has its own."""
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
        """The slot's tokens [G, N, C] as hidden tokens [G, N, D].

        Raises UserError for clean tokens without their pixels, where the adapter reads these too.
        """
        stem = self.stem
        hidden = stem(slot.tokens, clean) if isinstance(stem, PatchStem) else stem(slot.tokens)
        if clean and self.view_stem is not None:
            if slot.view is None:
                raise UserError("this network reads clean frames as pixels; give it the pictures")
            hidden = hidden + self.view_stem(slot.view, True)
        t, h, w = slot.places.unbind(dim=1)
        positions = None if self.grid_positions is None else self.grid_positions[h, w]
        if self.times is not None:
            times = F.embedding(t, self.times)  # its backward adds in a fixed order
            positions = times if positions is None else times + positions
        return hidden if positions is None else hidden + positions

    def read(self, hidden: Tensor, mod: Modulation, rows: Tensor | None = None) -> Tensor:
        """Hidden tokens [G, N, D] as tokens [G, N, C]; `rows` is `modulation_rows` of `mod`."""
        channels = self.config.channels if self.config.learn_sigma else None
        return self.final_layer(hidden, mod, channels, rows)

    def modulation_rows(self, mod: Modulation) -> Tensor:
        """What the last layer's modulation makes of `mod.cond`: [G, V, 2 D]."""
        return self.final_layer.adaLN_modulation(mod.cond)

    def forget_output(self) -> None:
        """Zero the output, for tokens that from now on are predicted as a change of others."""
        zero(self.final_layer.linear)
