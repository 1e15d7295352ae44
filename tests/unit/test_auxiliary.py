"""ReWorld's auxiliary heads and their extrapolation, and SRA 2's target: the clean tokens."""

import copy

import pytest
import torch
import torch.nn.functional as F

from selfflow_robotics.batch import Batch, Slot
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import load_bundle
from selfflow_robotics.inference.sample import sample
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.models.warm_start import Source, warm_start
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.training.checkpoint import save_checkpoint
from tests.networks import as_slots, frames_slot, image_record, robot_network, waken

SIT = SiTConfig(width=32, depth=4, heads=2)
ROBOT = RobotConfig(SIT, image_size=(32, 32), later_frames=2)
EARLY = 2
REWORLD = ObjectiveConfig(gamma=0, mask_ratio=0, auxiliary=0.5, student_layer=EARLY)
VANILLA = ObjectiveConfig(gamma=0, mask_ratio=0, student_layer=EARLY)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def robot(auxiliary_layer=EARLY, **parts):
    torch.manual_seed(0)
    return Network(robot_network(ROBOT, auxiliary_layer=auxiliary_layer, **parts))


def images(auxiliary_layer=EARLY):
    torch.manual_seed(0)
    return Network(image_config(SIT, latent_size=8, num_classes=5, auxiliary_layer=auxiliary_layer))


def robot_batch(network):
    tokens = {
        "first_frame": torch.randn(3, 4, 768, generator=generator(1)),
        "later_frames": torch.randn(3, 8, 768, generator=generator(2)),
        "actions": torch.randn(3, 6, 7, generator=generator(3)),
    }
    return Batch(as_slots(network, tokens), ["a", "b", "c"])


def robot_loss(network, objective, role="joint", **settings):
    conditioning = ConditioningConfig(**settings)
    batch = robot_batch(network)
    return loss(network, network, batch, ROLES[role], objective, conditioning, generator(), step=0)


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_the_auxiliary_loss_trains_its_heads_and_the_blocks_before_them_only(attention):
    network = waken(robot())
    terms = robot_loss(network, REWORLD, attention=attention)
    terms.auxiliary_loss.backward()
    trained = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    heads = {name for name in trained if name.startswith("auxiliary.")}
    assert {name.split(".")[1] for name in heads} == {"frames", "actions"}
    blocks = {int(name.split(".")[2]) for name in trained if name.startswith("backbone.blocks.")}
    assert blocks == {0, 1}
    assert not any("final_layer" in name or "projector" in name for name in trained - heads)
    torch.testing.assert_close(terms.loss, terms.flow_loss + 0.5 * terms.auxiliary_loss)


@pytest.mark.parametrize("role", ["world_model", "policy", "joint"])
def test_all_heads_predict_the_same_at_first(role):
    terms = robot_loss(robot(), REWORLD, role)
    torch.testing.assert_close(terms.auxiliary_loss, terms.flow_loss)


def test_the_heads_change_nothing_else():
    """Neither the other initial weights nor the flow loss, to the last bit."""
    plain, with_heads = robot(None), robot()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, with_heads.state_dict()[name]), name
    assert torch.equal(
        robot_loss(plain, VANILLA).flow_loss, robot_loss(with_heads, REWORLD).flow_loss
    )
    assert robot_loss(with_heads, VANILLA).auxiliary_loss is None


def draw(network, **settings):
    """One solver step, so that the samples are linear in the velocity."""
    noise = {"first_frame": frames_slot(network, torch.randn(2, 16, 16, generator=generator(5)))}
    labels = torch.tensor([1, 3])
    return sample(network, noise, num_steps=1, labels=labels, **settings)["first_frame"]


def test_extrapolation_goes_from_the_early_velocity_through_the_final_one():
    network = waken(images(), std=0.3)
    plain = draw(network)
    assert torch.equal(draw(network, extrapolation=1.0), plain)
    early, far = draw(network, extrapolation=0.0), draw(network, extrapolation=1.4)
    assert (early - plain).abs().max() > 1e-2
    torch.testing.assert_close(far, early + 1.4 * (plain - early))
    guided = draw(network, extrapolation=1.4, guidance_scale=2.0)
    assert (guided - far).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_frames_predicted_as_a_change_are_extrapolated_too(attention):
    network = waken(robot(), std=0.3)
    slots = robot_batch(network).slots
    noise = {"later_frames": slots.pop("later_frames")}

    def imagined(extrapolation):
        return sample(
            network, noise, num_steps=1, clean=slots, words=["a", "b", "c"],
            attention=attention, extrapolation=extrapolation,
        )["later_frames"]  # fmt: skip

    early, final, far = (imagined(w) for w in (0.0, 1.0, 1.4))
    assert (early - final).abs().max() > 1e-2
    torch.testing.assert_close(far, early + 1.4 * (final - early), rtol=1e-4, atol=1e-5)


def test_a_checkpoint_keeps_the_heads(tmp_path):
    network = waken(images(), std=0.3)
    record = image_record(network.config, patch=2)
    saved = save_checkpoint(tmp_path, 1, {"teacher": network.state_dict()}, record)
    loaded = load_bundle(saved, "cpu").network
    assert loaded.config.auxiliary_layer == EARLY
    assert torch.equal(draw(loaded, extrapolation=1.4), draw(network, extrapolation=1.4))


def test_a_record_from_before_the_heads_is_still_read(tmp_path):
    network = images(None)
    record = copy.deepcopy(image_record(network.config, patch=2))
    del record["network"]["auxiliary_layer"], record["network"]["lora"]
    saved = save_checkpoint(tmp_path, 1, {"teacher": network.state_dict()}, record)
    assert load_bundle(saved, "cpu").network.config == network.config


def test_extrapolation_without_heads_is_refused():
    for extrapolation in (1.4, -1.0, float("nan")):
        with pytest.raises(UserError, match="extrapolation"):
            draw(images(None), extrapolation=extrapolation)


@pytest.mark.parametrize(("ours", "loaded"), [(EARLY, True), (EARLY + 1, False)])
def test_warm_start_takes_heads_of_the_same_layer(ours, loaded):
    source = waken(robot())
    network = robot(ours)
    report = warm_start(network, Source(source.config, source.state_dict()))
    name = "auxiliary.frames.linear.weight"
    assert (name in report.loaded) == loaded
    assert (name in report.new) != loaded


def test_a_head_needs_an_existing_layer():
    for layer in (0, 5):
        with pytest.raises(UserError, match=r"layer"):
            robot_network(ROBOT, auxiliary_layer=layer)
    with pytest.raises(UserError, match="auxiliary"):
        ObjectiveConfig(auxiliary=-0.5)


# SRA 2


SRA2 = ObjectiveConfig(
    gamma=1.0, mask_ratio=0, target="latents", distance="smooth_l1", student_layer=1
)


@pytest.mark.parametrize("role", ["world_model", "joint", "video"])
def test_sra2_compares_features_with_the_clean_tokens_of_frames(role):
    network = robot(None, feature_channels=768)
    heard = []

    def projector(x):
        heard.append(network.projector(x))
        return heard[-1]

    class Spied:
        """The network, with its head overheard."""

        def __getattr__(self, name):
            return projector if name == "projector" else getattr(network, name)

        def __call__(self, *args, **kw):
            return network(*args, **kw)

    batch = robot_batch(network)
    terms = loss(Spied(), None, batch, ROLES[role], SRA2, ConditioningConfig(), generator(), step=0)
    frames = batch.slots["later_frames"].tokens
    assert heard[0].shape == frames.shape  # without the actions
    distance = F.smooth_l1_loss(heard[0], frames, beta=0.05)
    torch.testing.assert_close(terms.loss, terms.flow_loss + distance)
    terms.loss.backward()
    assert network.projector.linear1.weight.grad.any()


def test_sra2_ignores_tokens_beyond_the_end_of_an_episode():
    network = robot(None, feature_channels=768)

    def value(fill):
        batch = robot_batch(network)
        slot = batch.slots["later_frames"]
        valid = torch.ones(slot.tokens.shape[:2], dtype=torch.bool)
        valid[0, 4:] = False
        tokens = torch.where(valid[..., None], slot.tokens, fill)
        batch.slots["later_frames"] = Slot(tokens, slot.places, valid)
        conditioning = ConditioningConfig()
        terms = loss(network, None, batch, ROLES["video"], SRA2, conditioning, generator(), step=0)
        return terms.loss - terms.flow_loss

    assert value(float("nan")).isfinite()
    torch.testing.assert_close(value(0.0), value(float("nan")))
