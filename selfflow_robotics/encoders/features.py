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
    bands[:BANDS]        no network: loudness of sounds in BANDS (8) bands and as many parts of time
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
    "bands": "bands:8",
}
READS = {"video": "videos", "sound": "sounds", "bands": "sounds", "given": "features"}  # by kind
NAMES = (
    "inception, efficientnet-lite0, dinov2-l, hf:NAME_OR_PATH, hub:REPO:MODEL, run:PATH, clip, "
    "video, sound, pixels, bands or given"
)
MOST_PIXELS = 64  # a side
QUIETEST = 1e-8  # power: -80 dB


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


def reads(name: str) -> str:
    """What the feature network called `name` reads, without loading it."""
    return READS.get(kind_of(name), "images")


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
        if kind == "bands" and rest.isdecimal() and 1 <= int(rest) <= MOST_PIXELS:
            return BandFeatures(int(rest), device)
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


class BandFeatures:
    """Sounds float [B, samples] as coarse spectrograms: log10 of the power in `count` bands,
    equally wide on a logarithmic scale over two decades, times `count` parts of time. A baseline
    that hears loudness, its course and brightness only."""

    reads = "sounds"

    def __init__(self, count: int, device: torch.device) -> None:
        self.identity = f"bands:{count}"
        self._count, self._device = count, device

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        sounds = batch.to(self._device).float()
        parts = rearrange(
            sounds[:, : sounds.shape[1] // self._count * self._count],
            "b (t s) -> b t s",
            t=self._count,
        )
        window = torch.hann_window(parts.shape[-1], device=self._device)
        powers = torch.fft.rfft(parts * window).abs().square() / window.sum().square()
        edges = torch.logspace(-2, 0, self._count + 1) * powers.shape[-1]
        edges[0] = 0
        bands = [
            powers[..., low : max(low + 1, high)].sum(-1)
            for low, high in zip(edges.int().tolist()[:-1], edges.int().tolist()[1:], strict=True)
        ]
        return {"features": torch.stack(bands, -1).clamp(min=QUIETEST).log10().flatten(1)}


class GivenFeatures:
    """Features that were computed elsewhere."""

    reads = "features"
    identity = "given"

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        return {"features": batch}
