"""Frozen features of latents: decoded pictures in, one feature for each token out."""

import torch
from selfflow_robotics.models.image_sit import patchify
from selfflow_robotics.world.frozen_encoder import encoder_of_latents

from selfflow_robotics.autoencoders.latent import PixelLatents


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
    encode = encoder_of_latents(MeanColour(), PixelLatents(), 2)
    features = encode({"latents": tokens})
    expected = (tokens.view(2, 16, 3, 4).mean(dim=-1) + 1) * 127.5
    torch.testing.assert_close(features, expected, rtol=0, atol=0.01)
