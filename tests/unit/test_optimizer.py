"""Which parameter goes where: Muon, AdamW with weight decay, or AdamW without."""

import pytest
import torch
from torch import nn

from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.layers import FusedLinear
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers
from selfflow_robotics.training.state import TrainState

SIT = SiTConfig(width=48, depth=2, heads=3)
FLUX = FluxConfig(width=48, double=1, single=1, heads=3)


def places(model, **settings):
    """Parameter's name -> its optimiser, and its group's parts (Muon) or weight decay (AdamW)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    for optimizer in build_optimizers(model, OptimizerConfig(**settings)):
        kind = type(optimizer).__name__
        for group in optimizer.param_groups:
            value = group["parts"] if kind == "Muon" else group["weight_decay"]
            for parameter in group["params"]:
                assert names[parameter] not in found
                found[names[parameter]] = kind, value
    return found


def robot(backbone):
    config = RobotConfig(SIT, (32, 32), later_frames=2, backbone=backbone, flux=FLUX)
    return Network(config.network())


def test_sit():
    found = places(robot("sit"))
    block = "backbone.blocks.1"
    assert found[f"{block}.attn.qkv.weight"] == ("Muon", 3)
    assert found[f"{block}.attn.proj.weight"] == ("Muon", 1)
    assert found[f"{block}.mlp.fc1.weight"] == ("Muon", 1)
    assert found[f"{block}.mlp.fc2.weight"] == ("Muon", 1)
    assert found[f"{block}.adaLN_modulation.1.weight"] == ("AdamW", 0.01)
    assert sum(kind == "Muon" for kind, _ in found.values()) == 4 * SIT.depth


def test_flux():
    found = places(robot("flux"))
    for block in ("blocks.0.conditioning", "blocks.0.visual", "blocks.1"):
        assert found[f"backbone.{block}.attn.qkv.weight"] == ("Muon", 3)
        assert found[f"backbone.{block}.attn.proj.weight"] == ("Muon", 1)
        assert found[f"backbone.{block}.mlp.fc1.weight"] == ("Muon", 2)  # gate and value
        assert found[f"backbone.{block}.mlp.fc2.weight"] == ("Muon", 1)
        assert found[f"backbone.{block}.attn.q_norm"] == ("AdamW", 0.0)
    assert found["backbone.adaLN_modulation.visual.weight"] == ("AdamW", 0.01)
    assert sum(kind == "Muon" for kind, _ in found.values()) == 3 * 4


@pytest.mark.parametrize("muon", [True, False])
@pytest.mark.parametrize("backbone", ["sit", "flux"])
def test_biases_norms_embeddings_and_tables_do_not_decay(backbone, muon):
    model = robot(backbone)
    found = places(model, muon=muon)
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            assert found[name] == ("AdamW", 0.0), name
    free = {name for name, place in found.items() if place == ("AdamW", 0.0)}
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
        assert found[name] == ("AdamW", 0.01), name


def test_labels_do_not_decay():
    found = places(Network(image_config(SIT, latent_size=4, num_classes=3)), weight_decay=0.1)
    assert found["label_table.weight"] == ("AdamW", 0.0)
    assert found["backbone.t_embedder.mlp.0.weight"] == ("AdamW", 0.1)


class Other(nn.Module):
    """None of ours: blocks in a list of that name, one of them frozen, and none of their own."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            [nn.Linear(4, 4), FusedLinear(4, 4, parts=2), nn.Embedding(5, 4), nn.Linear(4, 4)]
        )
        self.blocks[3].requires_grad_(False)
        self.head = nn.Linear(4, 1)


def test_any_network_with_blocks():
    found = places(Other())
    assert found == {
        "blocks.0.weight": ("Muon", 1),
        "blocks.0.bias": ("AdamW", 0.0),
        "blocks.1.weight": ("Muon", 2),
        "blocks.1.bias": ("AdamW", 0.0),
        "blocks.2.weight": ("AdamW", 0.0),
        "head.weight": ("AdamW", 0.01),
        "head.bias": ("AdamW", 0.0),
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


def test_a_fused_layer_is_a_linear_layer_to_all_others():
    torch.manual_seed(0)
    fused = FusedLinear(6, 4, parts=3, bias=False)
    torch.manual_seed(0)
    plain = nn.Linear(6, 12, bias=False)
    assert fused.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(fused.weight, plain.weight)


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
