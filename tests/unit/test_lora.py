"""Low-rank updates and a frozen backbone: what trains, what is saved, and what merging leaves."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selfflow_robotics.batch import Batch
from selfflow_robotics.cli.start import Start, find_start
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import load_bundle, read_config
from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.lora import LoraConfig
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.models.warm_start import Source
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.training.loop import StepLoss, TrainConfig, train
from selfflow_robotics.training.optimizer import OptimizerConfig
from selfflow_robotics.training.state import TrainState
from tests.networks import ask_image, frames_slot, image_record, robot_network, waken

LORA = LoraConfig(rank=4, alpha=8.0)
SIT = SiTConfig(32, 2, 2)
SHAPE = image_config(SIT, latent_size=8, num_classes=3)
TRAIN = TrainConfig(
    steps=4, log_every=1, save_every=2, optimizer=OptimizerConfig(warmup_steps=0, muon=True)
)
TOKENS = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1))


def images(lora=None):
    torch.manual_seed(0)
    network = waken(Network(SHAPE))
    if lora is not None:
        network.add_lora(lora)
    return network


def with_updates(network):
    """As after training: `up` is no longer zero."""
    for name, p in network.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(p, std=0.1)
    return network


def asked(network):
    timesteps = (torch.tensor([[0.2], [0.5], [0.8], [0.4]]), torch.zeros(4, 16, dtype=torch.long))
    with torch.no_grad():
        return ask_image(network, TOKENS, timesteps, torch.tensor([0, 1, 2, 0]))[0]


def run(state, folder, steps=4):
    folder.mkdir(exist_ok=True)

    def loss_fn(step, generator):
        slot = frames_slot(state.model, TOKENS)
        terms = loss(
            state.model, state.teacher, Batch({"first_frame": slot}, labels=torch.arange(4) % 3),
            ROLES["image"], ObjectiveConfig(student_layer=1, teacher_layer=2),
            ConditioningConfig(), generator, step=step,
        )  # fmt: skip
        return StepLoss(terms.loss, terms.num_tokens)

    config = TrainConfig(steps, TRAIN.optimizer, log_every=1, save_every=2)
    train(
        config, state, lambda step: step, loss_fn, folder, seed=0,
        device=torch.device("cpu"), precision="fp32",
        extra=image_record(state.model.config, patch=2),
    )  # fmt: skip


def test_an_update_is_zero_at_first():
    assert torch.equal(asked(images(LORA)), asked(images()))


@pytest.mark.parametrize("backbone", ["sit", "flux"])
def test_merging_is_exact_and_leaves_a_plain_network(backbone):
    torch.manual_seed(0)
    flux = FluxConfig(48, double=1, single=1, heads=2)
    shape = image_config(SIT if backbone == "sit" else flux, latent_size=8, num_classes=3)
    network = waken(Network(shape))
    plain = asked(network)
    network.add_lora(LORA)
    before = asked(with_updates(network))
    assert (before - plain).abs().max() > 1e-3
    network.merge_lora()
    torch.testing.assert_close(asked(network), before, rtol=0, atol=1e-6)
    assert network.state_dict().keys() == Network(shape).state_dict().keys()
    assert network.config == shape


def test_a_context_sees_the_updates():
    """It multiplies with rows of the weight only."""
    torch.manual_seed(0)
    network = waken(Network(robot_network(RobotConfig(SIT, (32, 32)))))
    network.add_lora(LORA)
    before = with_updates(network).encode_context({}, ["pick"]).kept
    network.merge_lora()
    for pair, merged in zip(before, network.encode_context({}, ["pick"]).kept, strict=True):
        torch.testing.assert_close(pair, merged, rtol=0, atol=1e-6)


def test_only_updates_adapters_and_heads_are_trained(tmp_path):
    network = images(LORA)
    state = TrainState.start(network, TRAIN.optimizer)
    before = copy.deepcopy(network.state_dict())
    optimized = {p for o in state.optimizers for g in o.param_groups for p in g["params"]}
    assert optimized == {p for p in network.parameters() if p.requires_grad}
    assert all(not p.requires_grad for p in state.teacher.parameters())
    run(state, tmp_path)
    for side in (state.model, state.teacher):
        for name, tensor in side.state_dict().items():
            frozen = name.startswith("backbone.") and not name.endswith((".up", ".down"))
            assert torch.equal(tensor, before[name]) == frozen, name


def test_the_average_and_a_resumed_run_are_those_of_a_run_without_a_break(tmp_path):
    whole = TrainState.start(images(LORA), TRAIN.optimizer)
    run(whole, tmp_path / "whole")
    first = TrainState.start(images(LORA), TRAIN.optimizer)
    run(first, tmp_path / "parts", steps=2)
    # What follows depends on the length through the learning rate only, which is constant so early.
    second = TrainState.start(Network(read_config(newest(tmp_path / "parts"))), TRAIN.optimizer)
    second.load(newest(tmp_path / "parts"))
    assert second.step == 2
    for side in ("model", "teacher"):
        for name, tensor in getattr(first, side).state_dict().items():
            assert torch.equal(tensor, getattr(second, side).state_dict()[name]), name
    loaded = load_bundle(newest(tmp_path / "whole"), "cpu").network
    assert loaded.config == SHAPE
    torch.testing.assert_close(asked(loaded), asked(whole.teacher), rtol=0, atol=1e-6)


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step_*"))


def test_a_start_reports_what_is_frozen(capsys):
    source = Source(SHAPE, images().state_dict())
    for lora in (None, LORA):
        record = {"init": "x", "source": "x"}
        start = Start(replace(SHAPE, lora=lora), source, record, "x")
        network = start.build({}, None, freeze=lora is None)
        assert record["frozen"] == ["backbone.blocks", "backbone.t_embedder"]
        assert "frozen: backbone.blocks" in capsys.readouterr().out
        backbone = network.get_submodule("backbone")
        trained = {n for n, p in backbone.named_parameters() if p.requires_grad}
        assert all(name.endswith((".up", ".down")) for name in trained)
        assert bool(trained) == (lora is not None)
        assert all(p.requires_grad for p in network.adapters.parameters())
        assert torch.equal(asked(network), asked(images()))


def test_a_frozen_backbone_needs_weights(tmp_path):
    start = find_start("none", SHAPE, tmp_path / "run", str(tmp_path))
    with pytest.raises(UserError, match="init"):
        start.build({}, None, freeze=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": -1},
        {"rank": 10**6},
        {"rank": 2, "alpha": 0.0},
        {"rank": 2, "alpha": float("nan")},
        {"rank": 2, "targets": ()},
    ],
)
def test_impossible_updates_are_refused(settings):
    with pytest.raises(UserError, match="lora"):
        LoraConfig(**settings)


def test_an_unknown_target_is_refused():
    with pytest.raises(UserError, match=r"attn\.qkv"):
        images(LoraConfig(rank=2, targets=("query",)))
