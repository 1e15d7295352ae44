"""Every row of configs/objective: its timesteps, the features it compares, one step of it."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
import yaml

from selfflow_robotics.batch import Batch
from selfflow_robotics.errors import UserError
from selfflow_robotics.flow.timesteps import TimestepConfig
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.metrics import loss_metrics
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.objective.schedules import SCHEDULES
from selfflow_robotics.objective.self_flow import ObjectiveConfig, self_flow_loss
from selfflow_robotics.timesteps import Timesteps
from selfflow_robotics.training.teacher import make_teacher
from tests.networks import as_slots, frames_slot, robot_network

ROWS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((Path(__file__).parents[2] / "configs/objective").glob("*.yaml"))
}
WIDTH, PER_FRAME = 32, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def robot(feature_channels=None):
    torch.manual_seed(0)
    sit = SiTConfig(width=WIDTH, depth=4, heads=2)
    robot = RobotConfig(sit, image_size=(32, 32), later_frames=2)
    model = Network(robot_network(robot, feature_channels, auxiliary_layer=1))
    for parameter in model.parameters():  # nothing starts at zero, so that all gradients flow
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="module")
def model():
    return robot()


@pytest.fixture(scope="module")
def with_head_for_tokens():
    return robot(feature_channels=768)


def encoder(x):
    return torch.cat(list(x.values()), dim=1)[..., :WIDTH]


def loss_of(model, row, role="clip", seed=0, attention="prefix", **changes):
    tokens = {
        "first_frame": torch.randn(3, PER_FRAME, 768, generator=generator(1)),
        "later_frames": torch.randn(3, 2 * PER_FRAME, 768, generator=generator(2)),
    }
    batch = Batch(as_slots(model, tokens), ["a", "b", "c"])
    config = ObjectiveConfig(**{**ROWS[row], **changes})
    teacher = make_teacher(model)
    terms = loss(
        model, teacher, batch, ROLES[role], config, ConditioningConfig(attention),
        generator(seed), step=0, encoder=encoder,
    )  # fmt: skip
    return terms, teacher


@pytest.mark.parametrize("attention", ["prefix", "joint"])
@pytest.mark.parametrize("row", ROWS)
def test_every_objective_trains_the_student_and_never_the_teacher(
    model, with_head_for_tokens, row, attention
):
    model = with_head_for_tokens if row == "sra2" else model
    terms, teacher = loss_of(model, row, attention=attention)
    model.zero_grad()
    terms.loss.backward()
    assert torch.isfinite(terms.loss)
    assert model.backbone.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    trains_head = ROWS[row]["gamma"] > 0 and ROWS[row].get("head", True)
    assert (model.projector.linear1.weight.grad is not None) == trains_head
    assert (model.auxiliary["frames"].linear.weight.grad is not None) == (row == "reworld")
    logged = loss_metrics(terms)
    assert all(torch.isfinite(value[~value.isnan()]).all() for value in logged.values())
    assert ("effective_mask_ratio" in logged) == (row != "diffusion_forcing")


# Distributions p(t), and the share of each below t.
DISTRIBUTIONS = [
    (TimestepConfig(), scipy.stats.uniform.cdf),
    (
        TimestepConfig("logit_normal", mean=0.8, std=0.8),
        lambda t: scipy.stats.norm.cdf((np.log(t / (1 - t)) - 0.8) / 0.8),
    ),
]


@pytest.mark.parametrize(("distribution", "cdf"), DISTRIBUTIONS)
@pytest.mark.parametrize("row", ROWS)
def test_token_marginals(row, distribution, cdf):
    """Every token stands at p(t); under full masking, those of the mask stand at pure noise."""
    config = ObjectiveConfig(**ROWS[row])
    draw, g = SCHEDULES[config.schedule], generator(1)
    drawn = [draw(2, 3, config.mask_ratio, distribution, g) for _ in range(2000)]
    taus = np.array([tau.per_token[0, 1] for tau in drawn])
    if config.schedule == "full_mask":
        masked = np.array([tau.index[0, 1] for tau in drawn]).astype(bool)
        assert masked.mean() == pytest.approx(config.mask_ratio, abs=0.03)
        assert (taus[masked] == 1).all()
        taus = taus[~masked]
    assert scipy.stats.kstest(taus, cdf).pvalue > 0.01


def test_near_timesteps_are_a_little_cleaner_and_so_not_of_p_of_t():
    tau = SCHEDULES["near"](4096, 3, 0.25, TimestepConfig(), generator())
    t, s = tau.values.unbind(dim=1)
    assert (t - s).max() <= 0.2
    assert (t - s)[t > 0.2].mean().item() == pytest.approx(0.1, abs=0.005)
    assert scipy.stats.kstest(t, scipy.stats.uniform.cdf).pvalue > 0.01
    assert scipy.stats.kstest(s, scipy.stats.uniform.cdf).pvalue < 1e-6


@pytest.mark.parametrize("row", ["self_flow", "dts"])
def test_without_a_mask_the_flow_loss_is_vanilla_s_to_the_last_bit(row):
    torch.manual_seed(0)
    network = Network(image_config(SiTConfig(48, 4, 3), latent_size=8, num_classes=5))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    frame = frames_slot(network, torch.randn(6, 16, 16, generator=generator(4)))
    batch, role = Batch({"first_frame": frame}, labels=torch.arange(6) % 5), ROLES["image"]

    def flow_loss(config):
        teacher = make_teacher(network)
        shown = ConditioningConfig()
        return loss(network, teacher, batch, role, config, shown, generator()).flow_loss

    without_mask = ObjectiveConfig(**{**ROWS[row], "mask_ratio": 0.0})
    assert torch.equal(flow_loss(without_mask), flow_loss(ObjectiveConfig(**ROWS["vanilla"])))


def test_tubes_of_actions_are_single_tokens(model):
    tokens = {
        "first_frame": torch.randn(2, PER_FRAME, 768, generator=generator(1)),
        "actions": torch.randn(2, 6, 7, generator=generator(2)),
    }
    batch = Batch(as_slots(model, tokens), ["a", "b"])
    config = ObjectiveConfig(**{**ROWS["dts"], "mask_shape": "tube"})
    terms = loss(
        model, None, batch, ROLES["policy"], config, ConditioningConfig(), generator(), step=0
    )  # fmt: skip
    assert terms.timesteps.index.shape[1] == 6
    assert 0 < terms.timesteps.index.float().mean() < 1


def test_diffusion_forcing_gives_every_token_its_own_timestep():
    tau = SCHEDULES["per_token"](5, 7, 0.0, TimestepConfig(), generator())
    assert tau.values.unique().numel() == 35
    assert torch.equal(tau.per_token, tau.values)


def test_a_tube_masks_a_place_in_all_frames_or_in_none():
    places = torch.tensor([0, 1, 2, 3] * 3 + [4, 5])
    index = SCHEDULES["dual"](512, 14, 0.3, TimestepConfig(), generator(), places).index
    frames = index[:, :12].view(512, 3, 4)
    assert (frames == frames[:, :1]).all()
    assert index.float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert (index[:, 12] != index[:, 13]).any()


class Recorder:
    """A network that remembers its inputs; features are layer times what it sees."""

    def __init__(self):
        self.seen = []

    def __call__(self, x_t, timesteps, layers):
        self.seen.append((x_t["a"], timesteps))
        return {"a": torch.zeros_like(x_t["a"])}, {layer: layer * x_t["a"] for layer in layers}


def simple_loss(row, project=lambda x: x, **options):
    student, teacher = Recorder(), Recorder()
    x = {"a": torch.randn(64, 5, 3, generator=generator(9))}
    changes = options.pop("changes", {})
    config = ObjectiveConfig(**{**ROWS[row], **changes})
    terms = self_flow_loss(
        student, teacher, project, x, {}, {"a": "velocity"}, config, generator(), **options
    )
    return terms, student, teacher


def test_sra_shows_its_teacher_a_slightly_cleaner_view_with_the_same_noise():
    _, student, teacher = simple_loss("sra")
    (x_s, (t_s, _)), (x_t, (t_t, _)) = student.seen[0], teacher.seen[0]
    difference = t_s - t_t
    assert t_s.shape == (64, 1)
    assert (difference >= 0).all()
    assert difference.max() < 0.2 + 1e-6
    far = t_s > 0.2  # nearer to the data the teacher stands at 0 at most
    assert difference[far].mean().item() == pytest.approx(0.1, abs=0.025)
    x = torch.randn(64, 5, 3, generator=generator(9))
    noise = (x_s - (1 - t_s[..., None]) * x) / t_s[..., None]
    torch.testing.assert_close(
        x_t, (1 - t_t[..., None]) * x + t_t[..., None] * noise, rtol=1e-3, atol=1e-3
    )


def test_layersync_follows_its_own_later_layer_without_teacher_head_or_gradient_into_it():
    def project(_):
        raise AssertionError("there is no head")

    terms, _, teacher = simple_loss("layersync", project)
    assert not teacher.seen
    torch.testing.assert_close(terms.cosine, torch.tensor(1.0))  # layer * x: the same direction


def test_repa_compares_with_the_encoder_of_clean_tokens():
    seen = []

    def encoder(x):
        seen.append(x["a"])
        return x["a"]

    terms, student, teacher = simple_loss("repa", encoder=encoder)
    assert not teacher.seen
    assert torch.equal(seen[0], torch.randn(64, 5, 3, generator=generator(9)))
    expected = torch.nn.functional.cosine_similarity(student.seen[0][0], seen[0], dim=-1).mean()
    torch.testing.assert_close(terms.cosine, expected)


def test_l1_measures_the_distance_itself():
    terms, student, teacher = simple_loss("self_flow", changes={"distance": "l1"})
    target = 3 * teacher.seen[0][0]
    expected = terms.flow_loss + 0.8 * (student.seen[0][0] - target).abs().mean()
    torch.testing.assert_close(terms.loss, expected)


def test_gamma_warms_up():
    config = ObjectiveConfig(gamma=0.8, gamma_warmup_steps=4)
    assert [config.gamma_at(step) for step in (0, 1, 3, 9)] == pytest.approx([0.2, 0.4, 0.8, 0.8])
    terms, *_ = simple_loss("self_flow", gamma=0.1)
    torch.testing.assert_close(terms.loss, terms.flow_loss - 0.1 * terms.cosine)


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_separated_groups_cannot_see_each_other(model, attention):
    """Changing a token moves those of its own noise group only, also by way of the words."""
    context = model.encode_context({}, ["a"], attention=attention)
    index = torch.tensor([[0, 1, 0, 1]])
    timesteps = Timesteps(torch.tensor([[0.3, 0.7]]), index)
    x = torch.randn(1, PER_FRAME, 768, generator=generator(3))
    other = x.clone()
    other[:, 0] += 1

    def outputs(tokens, separate):
        slots = {"first_frame": frames_slot(model, tokens)}
        out, _ = model(slots, timesteps, context, separate_attention=separate)
        return out["first_frame"]

    for separate in (True, False):
        moved = (outputs(x, separate) - outputs(other, separate)).abs().amax(dim=-1)[0] > 1e-6
        assert moved.tolist() == [True, not separate, True, not separate]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"schedule": "duel"}, "did you mean dual"), ({"gamma_warmup_steps": -1}, "warmup")],
)
def test_impossible_objectives_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        ObjectiveConfig(**settings)


@pytest.mark.parametrize("role", ["world_model", "video"])
def test_noise_on_the_clean_frame_leaves_a_still_scene_still(role):
    """An untrained network predicts no change, and what it changes is the frame without noise."""
    torch.manual_seed(0)
    config = RobotConfig(SiTConfig(WIDTH, 4, 2), image_size=(32, 32), later_frames=2)
    model = Network(robot_network(config))
    frame = torch.rand(3, PER_FRAME, 768, generator=generator(1))
    tokens = {
        "first_frame": frame,
        "later_frames": frame.repeat(1, 2, 1),
        "actions": torch.zeros(3, 6, 7),
    }
    terms = loss(
        model,
        make_teacher(model),
        Batch(as_slots(model, tokens), ["a"] * 3),
        ROLES[role],
        ObjectiveConfig(gamma=0),
        ConditioningConfig(frame_noise=0.9),
        generator(2),
    )
    assert terms.flow_loss < 1e-9
