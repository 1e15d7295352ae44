"""InceptionV3 as FID's feature network, by torch-fidelity.

Its weights are those of the TensorFlow graph of 2015 that FID is defined on, and so are its
resizing and pooling. Three outputs, as in ADM's evaluation suite (arXiv 2105.05233): the pooled
features (FID, precision and recall), the first seven channels of a convolution at 17 x 17 (sFID),
and logits without bias (Inception Score).
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from selfflow_robotics.encoders.pretrained import short
from selfflow_robotics.errors import UserError

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d"  # its first digits, as torch.hub names files
SPATIAL_CHANNELS = 7


class Inception:
    """As `encoders.features.FeatureNetwork`: features [B, 2048], spatial [B, 2023] and logits
    [B, 1008]."""

    reads = "images"
    identity = "inception"

    def __init__(self, network: Any, device: torch.device) -> None:
        self._network = network.to(device)
        self._device = device
        self._spatial: Tensor | None = None
        # `mixed_6/conv` of the TensorFlow graph.
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    @torch.no_grad()
    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        pixels = rearrange(batch.to(self._device), "b h w c -> b c h w").contiguous()
        features, logits = self._network(pixels)
        assert self._spatial is not None
        return {"features": features, "spatial": self._spatial, "logits": logits}

    def _keep(self, _module: Any, _inputs: Any, output: Tensor) -> None:
        self._spatial = rearrange(output[:, :SPATIAL_CHANNELS], "b c h w -> b (h w c)")


def load_inception(download: bool, device: torch.device) -> Inception:
    """From torch.hub's folder of checkpoints.

    Raises UserError if torch-fidelity or the weights are missing or damaged.
    """
    try:
        from torch_fidelity import (  # pyright: ignore[reportMissingImports]
            feature_extractor_inceptionv3 as library,
        )
    except (ImportError, RuntimeError) as error:  # the latter from a torchvision for another torch
        raise UserError(
            f"features=inception needs torch-fidelity ({short(error)}): pip install "
            "'selfflow_robotics[metrics]', and a torchvision that fits torch; features=run:PATH "
            "needs no packages"
        ) from None
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if not path.is_file():
        if not download:
            raise UserError(
                f"{path}, the weights of InceptionV3, is missing; allow its download with "
                "download=true, or copy it there from another machine (features=run:PATH needs no "
                "weights)"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(library.URL_INCEPTION_V3, str(path), SHA256)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"cannot download the weights of InceptionV3 ({short(error)}); copy {WEIGHTS} to "
                f"{path.parent}"
            ) from error
    check_weights(path)
    network = library.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], path)
    return Inception(network, device)


def check_weights(path: Path) -> None:
    """Raises UserError unless the file has its checksum: torch-fidelity unpickles it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(SHA256):
        raise UserError(f"{path} is damaged or another file; remove it, then download it again")
