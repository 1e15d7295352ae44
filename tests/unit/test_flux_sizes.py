"""The paper's larger networks: from their configuration files to parameters, and a step of 4 B."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from selfflow_robotics.models.backbone import WORDS, Tokens
from selfflow_robotics.models.flux import SIZES, Flux, FluxConfig
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import image_config
from selfflow_robotics.models.text import TextConfig
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.timesteps import Timesteps
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers

CONFIGS = Path(__file__).parents[2] / "configs"
# Of the text-to-image network: blocks, modulation, adapters, timesteps and the training-only head.
PARAMETERS = {
    "290M": 306_765_776,
    "420M": 434_189_360,
    "625M": 625_324_736,
    "1B": 1_007_595_488,
    "4B": 4_021_267_808,
}


def read(group, name):
    return yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", SIZES)
def test_a_size_file_makes_a_network_of_its_name(name):
    config = FluxConfig(**read("size", name)["model"]["flux"])
    assert config == SIZES[name]
    layers = read("objective_layers", name)["objective"]
    assert layers == {
        "student_layer": round(0.3 * config.depth),
        "teacher_layer": round(0.7 * config.depth),
    }
    text = TextConfig("embeddings", channels=768)
    with torch.device("meta"):
        network = Network(
            image_config(config, (16, 16), 128, 1, None, learn_sigma=False, text=text)
        )
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]


@pytest.mark.slow
def test_blocks_of_the_4B_width_take_a_training_step():
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 16e9:
        pytest.skip("needs 7 GB")
    config = replace(SIZES["4B"], double=1, single=1)
    with torch.device("meta"):
        model = Flux(config)
    model.to_empty(device="cpu")
    generator = torch_generator("4B")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    (optimizer,) = build_optimizers(model, OptimizerConfig(muon=False))
    hidden = torch.randn(1, 6, config.width, generator=generator)
    places, times = torch.zeros(6, 3, dtype=torch.int64), Timesteps.constant(0.4, hidden)
    tokens = Tokens(hidden, places, times, ((WORDS, 2), ("first_frame", 4)))
    target = torch.randn(1, 6, config.width, generator=generator)
    (model(tokens)[0] - target).square().mean().backward()
    before = {name: p.flatten()[:9].clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert not torch.equal(parameter.flatten()[:9], before[name]), name
