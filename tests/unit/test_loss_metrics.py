"""What is logged of a loss: means by timestep and by noise group, and signs of collapse."""

import pytest
import torch

from selfflow_robotics.flow.timesteps import TimestepConfig
from selfflow_robotics.objective.dual_timestep import draw_dual_timesteps
from selfflow_robotics.objective.metrics import (
    feature_metrics,
    loss_metrics,
    mean_by,
    mean_by_timestep,
)
from selfflow_robotics.objective.self_flow import LossTerms

EVERY = torch.ones(1, 3, dtype=torch.bool)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def terms(mask_ratio: float = 0.25, gamma: bool = True) -> LossTerms:
    """Two slots of 6 and 4 tokens, 512 samples; the loss of a token is its timestep."""
    tau = draw_dual_timesteps(512, 10, mask_ratio, TimestepConfig(), generator())
    loss = dict(zip(("first_frame", "actions"), tau.per_token.split((6, 4), dim=1), strict=True))
    counted = torch.ones(512, 10, dtype=torch.bool)
    mean = tau.per_token.mean()
    features = torch.randn(512, 10, 8, generator=generator(1))
    if not gamma:
        return LossTerms(mean, mean, None, loss, tau, counted, {"student": features})
    cosine = tau.cleanest[:, None].expand(512, 10)
    both = {"student": features, "teacher": 2 * features}
    return LossTerms(mean, mean, cosine.mean(), loss, tau, counted, both, cosine)


def test_means_by_timestep_average_each_bin():
    loss, t = torch.tensor([[1.0, 3.0, 5.0]]), torch.tensor([[0.05, 0.0, 1.0]])
    bins = mean_by_timestep(loss, t, EVERY)
    assert bins[0] == 2.0
    assert bins[9] == 5.0
    assert bins[1:9].isnan().all()


def test_means_by_group_leave_out_what_does_not_count():
    loss, group = torch.tensor([[1.0, 3.0, 5.0]]), torch.tensor([[0, 0, 1]])
    assert mean_by(loss, group, 2, EVERY).tolist() == [2.0, 5.0]
    assert mean_by(loss, group, 2, torch.tensor([[True, False, True]])).tolist() == [1.0, 5.0]
    assert mean_by(loss, group, 2, torch.tensor([[True, True, False]]))[1].isnan()


def test_every_metric_is_a_tensor_of_its_own_numbers():
    logged = loss_metrics(terms())
    assert all(isinstance(value, torch.Tensor) for value in logged.values())
    assert not any(value.requires_grad for value in logged.values())
    assert logged["effective_mask_ratio"].item() == pytest.approx(0.25, abs=0.02)
    centres = torch.arange(10) / 10 + 0.05
    for key in ("loss_by_t/first_frame", "loss_by_t/actions", "cosine_by_t"):
        torch.testing.assert_close(logged[key], centres, atol=0.03, rtol=0)
    assert logged["loss_by_group/actions"].shape == (2,)
    assert logged["teacher/norm"].item() == pytest.approx(2 * logged["student/norm"].item())
    for key in ("spread_batch", "spread_tokens"):
        assert logged[f"teacher/{key}"].item() == pytest.approx(logged[f"student/{key}"].item())
    assert logged["teacher/rank"].item() == pytest.approx(logged["student/rank"].item())


def test_loss_by_group_tells_s_from_t():
    made = terms()
    index = made.timesteps.index
    made.token_loss = {"first_frame": index[:, :6].float(), "actions": 2 - index[:, 6:].float()}
    logged = loss_metrics(made)
    assert logged["loss_by_group/first_frame"].tolist() == [0.0, 1.0]
    assert logged["loss_by_group/actions"].tolist() == [2.0, 1.0]


def test_vanilla_flow_matching_logs_its_own_features_and_no_mask():
    logged = loss_metrics(terms(mask_ratio=0, gamma=False))
    assert logged["effective_mask_ratio"] == 0
    assert logged["loss_by_group/actions"][1].isnan()
    assert not [key for key in logged if "cosine" in key or key.startswith("teacher")]
    assert logged["student/rank"].item() == pytest.approx(8, rel=0.01)


def test_feature_metrics_measure_size_and_variety():
    x = torch.randn(4096, 5, 8, generator=generator(2))
    measured = {key: value.item() for key, value in feature_metrics(x).items()}
    assert measured["rank"] == pytest.approx(8, rel=0.01)
    assert measured["spread_batch"] == pytest.approx(1, rel=0.01)
    assert measured["spread_tokens"] == pytest.approx((4 / 5) ** 0.5, rel=0.01)
    assert measured["norm"] == pytest.approx(2.74, rel=0.01)  # of the chi distribution with 8


def test_feature_metrics_see_three_kinds_of_collapse():
    rows = torch.randn(256, 1, 8, generator=generator(3))
    same_places = feature_metrics(rows.expand(256, 5, 8))
    assert same_places["spread_tokens"] < 1e-3 < same_places["spread_batch"]
    same_samples = feature_metrics(rows[:5, 0].expand(256, 5, 8))
    assert same_samples["spread_batch"] < 1e-3 < same_samples["spread_tokens"]
    on_a_line = feature_metrics(rows[:, :, :1] * torch.ones(256, 5, 8))
    assert on_a_line["rank"].item() == pytest.approx(1, abs=1e-4)
