"""Feature networks of generation metrics, by name.

    inception            FID's InceptionV3, by torch-fidelity
    efficientnet-lite0   trained on ImageNet; its weights come with a package
    dinov2-l             short for hf:facebook/dinov2-large, which FD-DINOv2 uses
    hf:NAME_OR_PATH      a vision transformer of the transformers library: its class token
    hub:REPO:MODEL       a model of torch.hub, whose code is run: its class token
    run:PATH[@LAYER]     a run of this project: its tokens after LAYER blocks, averaged
    clip[:NAME_OR_PATH]  CLIP's image embedding; openai/clip-vit-large-patch14 without a name
    video[:NAME_OR_PATH] VideoMAE's tokens, averaged; MCG-NJU/videomae-base without a name
    sound[:NAME_OR_PATH] CLAP's audio embedding; laion/clap-htsat-unfused without a name
    pixels[:SIDE]        no network: the image averaged to SIDE x SIDE pixels (8)
    given                no network: the samples are features

`hf`, `hub` and `run` are the encoders of `encoders.load`. Files are only downloaded if allowed.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from selfflow_robotics.encoders.efficientnet import load_efficientnet
from selfflow_robotics.encoders.inception import load_inception
from selfflow_robotics.encoders.load import FrozenEncoder, load_encoder
from selfflow_robotics.encoders.multimodal import Clip, Sounds, Videos
from selfflow_robotics.errors import UserError

FULL_NAMES = {
    "dinov2-l": "hf:facebook/dinov2-large",
    "dinov2-b": "hf:facebook/dinov2-base",
    "clip": "clip:openai/clip-vit-large-patch14",
    "video": "video:MCG-NJU/videomae-base",
    "sound": "sound:laion/clap-htsat-unfused",
    "pixels": "pixels:8",
}
NAMES = (
    "inception, efficientnet-lite0, dinov2-l, hf:NAME_OR_PATH, hub:REPO:MODEL, run:PATH, clip, "
    "video, sound, pixels or given"
)
MOST_PIXELS = 64  # a side


class FeatureNetwork(Protocol):
    """Samples in, features out; no gradient."""

    @property
    def reads(self) -> str:
        """What: "images", "videos", "sounds" or "features"."""
        ...

    @property
    def identity(self) -> str:
        """Equal for networks with the same outputs, and only for these."""
        ...

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        """Outputs of B samples, by name: "features" [B, D]; from InceptionV3 also "spatial" and
        "logits"."""
        ...


def full_name(name: str) -> str:
    """The name with what it is short for: KIND or KIND:REST."""
    return FULL_NAMES.get(name, name)


def kind_of(name: str) -> str:
    """Its part before the colon."""
    return full_name(name).partition(":")[0]


def load_features(
    name: str, download: bool = False, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """The feature network called `name`; see the module docstring.

    Raises UserError for an invalid name, or if a package or file is missing or unsuitable.
    """
    kind, colon, rest = full_name(name).partition(":")
    device = torch.device(device)
    if not colon:
        if kind == "inception":
            return load_inception(download, device)
        if kind == "efficientnet-lite0":
            return load_efficientnet(device)
        if kind == "given":
            return GivenFeatures()
    elif rest:
        if kind in ("hf", "hub", "run"):
            return EncoderFeatures(load_encoder(full_name(name), download, device))
        if kind == "clip":
            return Clip(rest, download, device)
        if kind == "video":
            return Videos(rest, download, device)
        if kind == "sound":
            return Sounds(rest, download, device)
        if kind == "pixels" and rest.isdecimal() and 1 <= int(rest) <= MOST_PIXELS:
            return PixelFeatures(int(rest), device)
    raise UserError(f"unknown features '{name}'; give {NAMES}")


class EncoderFeatures:
    """A frozen encoder's features of whole images."""

    reads = "images"

    def __init__(self, encoder: FrozenEncoder) -> None:
        self._encoder = encoder
        self.identity = encoder.fingerprint

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        return {"features": self._encoder.pooled(batch)}


class PixelFeatures:
    """Images averaged to few pixels: a baseline that sees colours and large shapes only."""

    reads = "images"

    def __init__(self, side: int, device: torch.device) -> None:
        self.identity = f"pixels:{side}"
        self._side, self._device = side, device

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        planes = rearrange(batch.to(self._device).float() / 255, "b h w c -> b c h w")
        return {"features": F.adaptive_avg_pool2d(planes, self._side).flatten(1)}


class GivenFeatures:
    """Features that were computed elsewhere."""

    reads = "features"
    identity = "given"

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        return {"features": batch}
