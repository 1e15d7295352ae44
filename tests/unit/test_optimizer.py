"""Which parameter goes where: Muon, AdamW with weight decay, or AdamW without."""

import pytest
import torch
from torch import nn

from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers
from selfflow_robotics.training.state import TrainState
from tests.networks import robot_network

SIT = SiTConfig(width=48, depth=2, heads=3)
FLUX = FluxConfig(width=48, double=1, single=1, heads=3)


MUON, DECAYED, FREE = ("Muon", 0.01), ("AdamW", 0.01), ("AdamW", 0.0)


def places(model, **settings):
    """Parameter's name -> its optimiser and its weight decay."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    for optimizer in build_optimizers(model, OptimizerConfig(**settings)):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert names[parameter] not in found
                found[names[parameter]] = type(optimizer).__name__, group["weight_decay"]
    return found


def robot(backbone):
    config = RobotConfig(SIT, (32, 32), later_frames=2, backbone=backbone, flux=FLUX)
    return Network(robot_network(config))


@pytest.mark.parametrize(
    ("backbone", "layers"),
    [
        ("sit", ["blocks.1.attn.qkv", "blocks.1.mlp.fc2", "blocks.0.attn.proj"]),
        ("flux", ["blocks.0.visual.attn.qkv", "blocks.0.conditioning.mlp.fc1", "blocks.1.mlp.fc2"]),
    ],
)
def test_muon_takes_the_matrices_of_the_blocks(backbone, layers):
    model = robot(backbone)
    found = places(model)
    for layer in layers:
        assert found[f"backbone.{layer}.weight"] == MUON
    inside = {n for n, p in model.named_parameters() if ".blocks." in n and p.ndim == 2}
    modulation = {name for name in found if "adaLN" in name and name.endswith(".weight")}
    assert inside - modulation == {name for name, place in found.items() if place == MUON}
    assert {found[name] for name in modulation} == {DECAYED}
    assert found["backbone.t_embedder.mlp.0.weight"] == DECAYED


@pytest.mark.parametrize("muon", [True, False])
@pytest.mark.parametrize("backbone", ["sit", "flux"])
def test_biases_norms_embeddings_and_tables_do_not_decay(backbone, muon):
    model = robot(backbone)
    found = places(model, muon=muon)
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            assert found[name] == FREE, name
    free = {name for name, place in found.items() if place == FREE}
    tables = {name for name, p in model.named_parameters() if p.ndim > 1 and name in free}
    times = {"adapters.frames.times", "adapters.actions.times"}
    text = {"text.embed.weight", "text.positions", "text.queries"}
    assert tables == (text | times if backbone == "sit" else text)
    for name in (
        "text.pool.in_proj_weight",
        "text.layer.linear1.weight",
        "projector.linear1.weight",
        "adapters.frames.stem.layers.0.weight",
        "adapters.actions.stem.weight",
    ):
        assert found[name] == DECAYED, name


def test_labels_do_not_decay():
    found = places(Network(image_config(SIT, latent_size=4, num_classes=3)), weight_decay=0.1)
    assert found["label_table.weight"] == FREE
    assert found["backbone.t_embedder.mlp.0.weight"] == ("AdamW", 0.1)


class Other(nn.Module):
    """None of ours: a list named `blocks` with an embedding and a frozen layer in it."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Embedding(5, 4), nn.Linear(4, 4)])
        self.blocks[2].requires_grad_(False)
        self.head = nn.Linear(4, 1)


def test_any_network_with_blocks():
    found = places(Other())
    assert found == {
        "blocks.0.weight": MUON,
        "blocks.0.bias": FREE,
        "blocks.1.weight": FREE,
        "head.weight": DECAYED,
        "head.bias": FREE,
    }
    assert {kind for kind, _ in places(Other(), muon=False).values()} == {"AdamW"}


def test_only_matrices_of_products_are_pulled_to_zero():
    model = robot("sit")
    adamw, _ = build_optimizers(model, OptimizerConfig(lr=0.1, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adamw.step()
    after = dict(model.named_parameters())
    for name in ("text.embed.weight", "adapters.actions.times", "text.layer.norm1.weight"):
        assert torch.equal(after[name], before[name]), name
    name = "projector.linear1.weight"
    torch.testing.assert_close(after[name], 0.95 * before[name])


@pytest.mark.parametrize("backbone", ["sit", "flux"])
def test_optimiser_state_comes_back_to_its_group(tmp_path, backbone):
    def step(state):
        for number, parameter in enumerate(state.model.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 + number)
        for optimizer in state.optimizers:
            optimizer.step()

    torch.manual_seed(0)
    state = TrainState.start(robot(backbone), OptimizerConfig())
    step(state)
    saved = state.save(tmp_path, {})
    resumed = TrainState.start(robot(backbone), OptimizerConfig())
    resumed.load(saved)
    for one in (state, resumed):
        step(one)
    for mine, other in zip(state.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(mine, other)
