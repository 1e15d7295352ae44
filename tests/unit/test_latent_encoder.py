"""Frozen features of latents: decoded pictures in, one feature for each token out."""

import torch

from selfflow_robotics.autoencoders.latent import PixelLatents
from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.encoders.load import encoder_of_tokens
from selfflow_robotics.modalities.latents import ImageLatents, patchify


class MeanColour:
    """Each place's mean colour, as a feature."""

    channels = 3

    def __call__(self, frames, grid):
        planes = frames.float().permute(0, 3, 1, 2)
        return torch.nn.functional.adaptive_avg_pool2d(planes, grid).flatten(2).mT


def test_features_stand_in_the_order_of_the_tokens():
    frames = torch.randint(
        0, 256, (2, 8, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    latents, _ = PixelLatents().encode(frames)
    tokens = patchify(latents, 2)
    codec = ImageLatents((8, 8), 3, 2, AutoencoderConfig("pixel"), "pixel", 1, PixelLatents())
    features = encoder_of_tokens(MeanColour(), codec)({"first_frame": tokens})
    expected = (tokens.view(2, 16, 3, 4).mean(dim=-1) + 1) * 127.5
    torch.testing.assert_close(features, expected, rtol=0, atol=0.01)
