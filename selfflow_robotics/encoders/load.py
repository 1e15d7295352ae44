"""Frozen image encoders, whose features REPA's student predicts (arXiv 2410.06940).

The name selects one:

    dinov2-b             short for hf:facebook/dinov2-base, which is REPA's
    hf:NAME_OR_PATH      a vision transformer of the transformers library, by name or folder
    hub:REPO:MODEL       a model of torch.hub, whose code is run; REPO is a folder or OWNER/NAME
    run:PATH[@LAYER]     a run of this project, after LAYER blocks; 0.7 of its depth, the paper's
                         teacher layer, where none is named

The first three only use local files unless downloads are allowed.
"""

from pathlib import Path
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from selfflow_robotics.encoders.frames import pool_features, resize_frames
from selfflow_robotics.encoders.patches import load_hub, load_transformers
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import Bundle, load_bundle, weights_hash
from selfflow_robotics.modalities.base import FrameCodec
from selfflow_robotics.objective.self_flow import Encoder, ObjectiveConfig
from selfflow_robotics.timesteps import Timesteps

SHORT_NAMES = {"dinov2-b": "hf:facebook/dinov2-base"}
AT_ONCE = 16  # batch size for decoding latents
NAMES = f"{', '.join(SHORT_NAMES)}, hf:NAME_OR_PATH, hub:REPO:MODEL or run:PATH"


class FeatureSource(Protocol):
    """Whatever has features."""

    @property
    def channels(self) -> int:
        """D of the features."""
        ...


class FrozenEncoder(FeatureSource, Protocol):
    """Images in, features out; no gradient."""

    @property
    def fingerprint(self) -> str:
        """Equal for encoders that return the same features, and only for these."""
        ...

    def __call__(self, frames: Tensor, grid: tuple[int, int]) -> Tensor:
        """Features float32 [B, h w, D], by rows, of frames uint8 [B, H, W, 3] for a grid (h, w)."""
        ...

    def pooled(self, frames: Tensor) -> Tensor:
        """Features float32 [B, D] of whole frames."""
        ...


def load_encoder(
    name: str, download: bool = False, device: torch.device | str = "cpu"
) -> FrozenEncoder:
    """The encoder called `name`; see the module docstring.

    Raises UserError for an invalid name, or if the library, the files or the network are missing or
    unsuitable.
    """
    kind, _, rest = SHORT_NAMES.get(name, name).partition(":")
    device = torch.device(device)
    if kind == "run" and rest:
        return RunEncoder.load(rest, device)
    if kind == "hf" and rest:
        return load_transformers(rest, download, device)
    repository, _, model = rest.rpartition(":")
    if kind == "hub" and repository and model:
        return load_hub(repository, model, download, device)
    raise UserError(f"unknown encoder '{name}'; give {NAMES}")


def load_run(where: str, device: torch.device) -> tuple[Bundle, int]:
    """The network of PATH[@LAYER], and the layer. Raises UserError as `load_bundle`, and if the
    layer does not exist."""
    path, _, number = where.rpartition("@")
    if not (path and number.isdecimal()):
        path, number = where, ""
    bundle = load_bundle(Path(path), device)
    depth = bundle.network.config.backbone.depth
    layer = int(number) if number else max(1, round(0.7 * depth))
    if not 1 <= layer <= depth:
        raise UserError(
            f"the encoder run:{where}: layer {layer} does not exist; the network has layers 1 to "
            f"{depth}"
        )
    return bundle, layer


def check_encoder(objective: ObjectiveConfig, name: str | None, names: str = NAMES) -> None:
    """Raise UserError if the objective needs an encoder (`names`: which there are) and none is
    given, or the reverse."""
    if objective.target == "encoder" and name is None:
        raise UserError(f"objective.target=encoder needs an encoder: encoder={names}")
    if objective.target != "encoder" and name is not None:
        raise UserError(
            f"encoder={name} is for objective=repa (objective.target=encoder), not for "
            f"objective.target={objective.target}; leave it out"
        )


def head_channels(
    encoder: FeatureSource | None,
    objective: ObjectiveConfig,
    width: int,
    latents: int | None = None,
) -> int | None:
    """Output channels of the training-only head: those of its target, None for the network's
    `width`.

    `latents`: channels of the tokens of frames. Raises UserError if there is no head although the
    target's channels differ from the width.
    """
    channels, target = None, "encoder's features"
    if encoder is not None:
        channels = encoder.channels
    elif objective.target == "latents" and objective.gamma > 0:
        channels, target = latents, "tokens of frames"
    if channels is not None and not objective.head and channels != width:
        raise UserError(
            f"the {target} have {channels} channels, the network {width}; add a projection with "
            "objective.head=true"
        )
    return channels


def encoder_of_tokens(encoder: FrozenEncoder, codec: FrameCodec) -> Encoder:
    """`encoder` as the loss asks it: clean tokens of slots of frames [G, F N, C] in, their features
    [G, N of all slots, D] out, one for each token in the same order.

    For latents, the encoder sees decoded images; REPA's own code uses the originals. SD-VAE's
    decoder takes 622 GFLOP for an image of 256 px, against 891 for a whole Self-Flow step of XL/2.
    It decodes a few images at a time, since the student's activations fill the memory.
    """

    def encode(tokens: dict[str, Tensor]) -> Tensor:
        per_frame = codec.tokens_per_step
        frames = torch.cat([x.unflatten(1, (-1, per_frame)) for x in tokens.values()], dim=1)
        parts = frames.flatten(0, 1).split(AT_ONCE)
        features = [encoder(codec.decode(part)[:, 0], codec.grid) for part in parts]
        return rearrange(torch.cat(features), "(g f) n d -> g (f n) d", f=frames.shape[1])

    return encode


class RunEncoder:
    """Features of a network trained by this project, on a clean image at t = 0 without text or
    class.

    The image takes the path of noised tokens, which the role "image" trains.
    """

    def __init__(self, bundle: Bundle, layer: int) -> None:
        bundle.network.requires_grad_(False)
        self._bundle, self._layer = bundle, layer
        self.channels = bundle.network.config.backbone.width

    @classmethod
    def load(cls, where: str, device: torch.device) -> "RunEncoder":
        """From PATH[@LAYER]. Raises UserError as `load_run`."""
        bundle, layer = load_run(where, device)
        return cls(bundle.with_autoencoder(), layer)

    @property
    def fingerprint(self) -> str:
        """As `FrozenEncoder`."""
        return f"{weights_hash(self._bundle.origin)}@{self._layer}"

    @torch.no_grad()
    def __call__(self, frames: Tensor, grid: tuple[int, int]) -> Tensor:
        """As `FrozenEncoder`; frames are resized to the network's size."""
        return pool_features(self._tokens(frames), self._bundle.frames.grid, grid)

    @torch.no_grad()
    def pooled(self, frames: Tensor) -> Tensor:
        """As `FrozenEncoder`: the mean over tokens."""
        return self._tokens(frames).float().mean(dim=1)

    def _tokens(self, frames: Tensor) -> Tensor:
        bundle = self._bundle
        pixels = resize_frames(frames.to(bundle.device), bundle.frames.image_size)
        tokens = bundle.frames.encode(rearrange(pixels, "b c h w -> b 1 h w c"))
        words = None if bundle.labelled else bundle.words([""] * len(tokens))
        context = bundle.network.encode_context({}, words)
        slots = {"first_frame": bundle.slot("first_frame", tokens)}
        timesteps = Timesteps.constant(0, tokens)
        _, features = bundle.network(slots, timesteps, context, (self._layer,), stop=True)
        return features[self._layer]
