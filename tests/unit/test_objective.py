"""Properties of the dual schedule, the role table and the loss of the paper."""

import numpy as np
import pytest
import scipy.stats
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.flow.timesteps import TimestepConfig
from selfflow_robotics.objective.dual_timestep import draw_dual_timesteps
from selfflow_robotics.objective.roles import (
    BLOCK,
    MAX_WEIGHT,
    ROBOT_ROLES,
    ROLES,
    RoleSchedule,
    arrange,
)
from selfflow_robotics.objective.self_flow import ObjectiveConfig, self_flow_loss

LOGIT_NORMAL = TimestepConfig("logit_normal", mean=0.8, std=0.8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("config", [TimestepConfig(), LOGIT_NORMAL])
def test_every_token_has_marginal_p_of_t(config):
    """Sorting t and s, or masking by a rule that looks at them, would break this."""
    g = generator(1)
    taus = np.array(
        [draw_dual_timesteps(2, 3, 0.4, config, g).per_token[0, 1] for _ in range(3000)]
    )

    def cdf(t):
        if config.distribution == "uniform":
            return scipy.stats.uniform.cdf(t)
        return scipy.stats.norm.cdf((np.log(t / (1 - t)) - config.mean) / config.std)

    assert scipy.stats.kstest(taus, cdf).pvalue > 0.01
    # The same test does see a sorted pair, also in the tokens' own timesteps: too few of them (the
    # masked) would be at the greater of the two.
    drawn = [draw_dual_timesteps(2, 3, 0.25, config, g) for _ in range(3000)]
    pairs = [tau._replace(values=tau.values.sort(dim=1).values) for tau in drawn]
    assert scipy.stats.kstest([tau.per_token[0, 1].item() for tau in pairs], cdf).pvalue < 1e-6


def test_teacher_sees_the_cleaner_of_the_two():
    tau = draw_dual_timesteps(4096, 5, 0.25, TimestepConfig(), generator())
    assert torch.equal(tau.cleanest, torch.minimum(tau.values[:, 0], tau.values[:, 1]))
    assert tau.cleanest.mean().item() == pytest.approx(1 / 3, abs=0.01)  # E[min] under uniform p
    assert (tau.per_token >= tau.cleanest[:, None]).all()


def test_mask_is_bernoulli_with_its_ratio():
    index = draw_dual_timesteps(4096, 20, 0.25, TimestepConfig(), generator()).index
    assert index.float().mean().item() == pytest.approx(0.25, abs=0.01)
    counts = index.sum(dim=1)
    assert counts.float().var().item() == pytest.approx(20 * 0.25 * 0.75, rel=0.1)


def test_roles_sort_slots_into_clean_and_noised():
    sample = {name: torch.zeros(1) for name in ("first_frame", "later_frames", "actions")}
    clean, noised = arrange(ROLES["policy"], sample)
    assert (set(clean), set(noised)) == ({"first_frame"}, {"actions"})
    clean, noised = arrange(ROLES["world_model"], sample)
    assert (set(clean), set(noised)) == ({"first_frame", "actions"}, {"later_frames"})
    for role in ROBOT_ROLES.values():  # every row denoises something
        assert arrange(role, sample)[1]


def test_roles_are_drawn_by_weight_as_a_function_of_seed_and_step():
    weights = {"policy": 3.0, "joint": 1.0, "video": 0.0}
    schedule = RoleSchedule(weights, 0)
    drawn = [schedule.at(step)[0] for step in range(2000)]
    assert drawn == [RoleSchedule(weights, 0).at(step)[0] for step in range(2000)]
    assert drawn != [RoleSchedule(weights, 1).at(step)[0] for step in range(2000)]
    assert drawn.count("policy") / 2000 == pytest.approx(0.75, abs=0.03)
    assert "video" not in drawn


@pytest.mark.parametrize("rare", [0.025, 1.0])
def test_every_row_counts_its_own_turns_also_from_the_middle_and_backwards(rare):
    weights = {"policy": 1.0, "joint": rare}
    schedule = RoleSchedule(weights, 3)
    steps = [schedule.at(step) for step in range(BLOCK + 300)]
    for row in weights:
        turns = [turn for name, turn in steps if name == row]
        assert turns == list(range(len(turns)))
    for step in (BLOCK + 299, BLOCK, BLOCK - 1, 0):
        assert RoleSchedule(weights, 3).at(step) == schedule.at(step) == steps[step]


def test_the_largest_weights_do_not_overflow():
    schedule = RoleSchedule(dict.fromkeys(("policy", "joint", "video"), MAX_WEIGHT), 0)
    assert {schedule.at(step)[0] for step in range(100)} == {"policy", "joint", "video"}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"polcy": 1.0}, "did you mean policy"),
        ({"policy": -1.0}, ">= 0"),
        ({"policy": 0.0}, "no role"),
    ],
)
def test_impossible_role_weights_are_refused(weights, message):
    with pytest.raises(UserError, match=message):
        RoleSchedule(weights, 0)


class Linear:
    """The smallest network with per-token timesteps: outputs w x_t (1 + tau), features x_t."""

    def __init__(self, w: float = 0.3):
        self.w = torch.tensor(w, requires_grad=True)
        self.seen = []

    def __call__(self, x_t, timesteps, layers):
        values, index = timesteps
        tau = values.gather(1, index).unsqueeze(-1)
        self.seen.append((x_t, timesteps, layers))
        outputs = {k: self.w * x * (1 + tau) for k, x in x_t.items()}
        return outputs, {layer: layer * outputs["a"] for layer in layers}


def loss_of(student, teacher=None, valid=None, seed=0, **config):
    x = {"a": torch.randn(6, 5, 3, generator=generator(9))}
    return self_flow_loss(
        student, teacher, lambda f: f, x, valid or {}, {"a": "velocity"}, ObjectiveConfig(**config),
        generator(seed),
    )  # fmt: skip


def test_no_gradient_reaches_the_teacher_which_stands_at_the_minimum():
    student, teacher = Linear(), Linear(0.7)
    terms = loss_of(student, teacher)
    terms.loss.backward()
    assert student.w.grad is not None
    assert teacher.w.grad is None
    _, (values, index), layers = teacher.seen[0]
    assert torch.equal(values[:, 0], terms.timesteps.cleanest)
    assert index.eq(0).all()
    assert layers == (3,)
    # Same noise for both: where a token's own timestep is the minimum, both see the same.
    same = terms.timesteps.per_token == terms.timesteps.cleanest[:, None]
    assert torch.equal(student.seen[0][0]["a"][same], teacher.seen[0][0]["a"][same])


def test_loss_is_flow_loss_minus_gamma_cosine():
    terms = loss_of(Linear(), Linear(0.7), gamma=0.5)
    torch.testing.assert_close(terms.loss, terms.flow_loss - 0.5 * terms.cosine)


def test_without_mask_and_gamma_it_is_vanilla_flow_matching_to_the_last_bit():
    student = Linear()
    terms = loss_of(student, gamma=0.0, mask_ratio=0.0)
    x = torch.randn(6, 5, 3, generator=generator(9))
    t = terms.timesteps.values[:, :, None]
    x_t = student.seen[0][0]["a"]
    g = generator(0)
    g2 = torch.Generator()
    g2.set_state(g.get_state())
    torch.rand(6, generator=g2), torch.randperm(6, generator=g2)  # what drawing t consumes
    noise = torch.randn(x.shape, generator=g2)
    assert torch.equal(x_t, (1 - t) * x + t * noise)
    vanilla = (student.w * x_t * (1 + t) - (noise - x)).square().mean(dim=-1).mean()
    assert torch.equal(terms.loss, vanilla)


def test_tokens_that_do_not_count_change_nothing():
    valid = {"a": torch.tensor([[True, True, False, False, False]] * 6)}
    terms = loss_of(Linear(), gamma=0.0, valid=valid)
    torch.testing.assert_close(terms.loss, terms.token_loss["a"][:, :2].mean())


@pytest.mark.parametrize(
    "config",
    [{"mask_ratio": 0.6}, {"gamma": -1.0}, {"student_layer": 3}, {"student_layer": 0}],
)
def test_impossible_objectives_are_refused(config):
    with pytest.raises(UserError):
        ObjectiveConfig(**config)
