"""FLUX.2's autoencoder through diffusers, at a tiny size with random weights."""

import pytest
import torch

from selfflow_robotics.autoencoders.load import AutoencoderConfig, load_autoencoder
from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import torch_generator

diffusers = pytest.importorskip("diffusers", reason="the extra 'flux2' is not installed")
if not hasattr(diffusers, "AutoencoderKLFlux2"):
    pytest.skip("diffusers is too old for FLUX.2's autoencoder", allow_module_level=True)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2, latent_channels=4
    )
    network.bn.running_mean.normal_()
    network.bn.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.fixture(scope="module")
def autoencoder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    network.save_pretrained(folder / "vae")  # as in a whole pipeline
    return load_autoencoder(AutoencoderConfig("flux2", str(folder)))


@pytest.fixture(scope="module")
def frames():
    generator = torch_generator("test", 0)
    return torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8, generator=generator)


def test_latents_are_normalized_patches_of_the_posterior(network, autoencoder, frames):
    assert (autoencoder.channels, autoencoder.downsample) == (16, 16)
    mean, std = autoencoder.encode(frames)
    assert mean.shape == std.shape == (2, 16, 2, 3)
    with torch.no_grad():
        posterior = network.encode(frames.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
        # In evaluation mode, torch's batch norm does the same to patches in (c p q) order.
        patches = torch.nn.functional.pixel_unshuffle(posterior.mean, 2)
        torch.testing.assert_close(mean, network.bn(patches))
        ratio = torch.nn.functional.pixel_unshuffle(posterior.std, 2) / std
    expected = (network.bn.running_var + network.bn.eps).sqrt()
    torch.testing.assert_close(ratio, expected.view(1, -1, 1, 1).expand_as(ratio))


def test_decoding_inverts_the_patches(network, autoencoder, frames):
    own = torch.randn(1, 4, 4, 6, generator=torch_generator("test", 1))
    with torch.no_grad():
        latents = network.bn(torch.nn.functional.pixel_unshuffle(own, 2))
        theirs = network.decode(own).sample
    expected = ((theirs.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
    decoded = autoencoder.decode(latents)
    assert decoded.dtype == torch.uint8
    assert (decoded.float() - expected).abs().max() <= 1


def test_a_size_that_does_not_divide_is_one_line(autoencoder):
    with pytest.raises(UserError, match="16"):
        autoencoder.encode(torch.zeros(1, 24, 32, 3, dtype=torch.uint8))
