"""Training metrics: loss by timestep, similarity to the teacher, signs of collapse.

Everything is computed on the device from existing results, without extra forward passes or
synchronization, and read back when it is logged.
"""

from typing import Any

import torch
from torch import Tensor

from selfflow_robotics.objective.self_flow import LossTerms

TIME_BINS = 10


def loss_metrics(terms: LossTerms) -> dict[str, Any]:
    """Tensors for logging: scalars, and lists over ten equal bins of timesteps in [0, 1].

    | key                    | meaning                                                        |
    |------------------------|----------------------------------------------------------------|
    | flow_loss              | L_gen                                                          |
    | effective_mask_ratio   | share of the tokens that took the second timestep s            |
    | loss_by_t/SLOT         | [10] loss of the tokens by their own timestep                  |
    | loss_by_group/SLOT     | [2] loss of the tokens that took t, and of those that took s   |
    | auxiliary_loss         | L_gen of the auxiliary head, if the objective has one          |
    | teacher_student_cosine | -L_rep                                                         |
    | cosine_by_t            | [10] the same by the sample's cleaner timestep, min(t, s)      |
    | student/..., teacher/...| `feature_metrics` of the student's features and their target  |

    The cosines and the target need gamma > 0; mask and groups need a schedule with two timesteps.
    Invalid tokens are ignored; an empty bin is NaN.
    """
    timesteps, counted = terms.timesteps.per_token, terms.counted
    group = terms.timesteps.index
    has_groups = terms.timesteps.values.shape[1] <= 2
    metrics: dict[str, Any] = {"flow_loss": terms.flow_loss.detach()}
    if has_groups:
        metrics["effective_mask_ratio"] = (group * counted).sum() / counted.sum()
    start = 0
    for slot, loss in terms.token_loss.items():
        part = (slice(None), slice(start, start + loss.shape[1]))
        start += loss.shape[1]
        loss = loss.detach()
        metrics[f"loss_by_t/{slot}"] = mean_by_timestep(loss, timesteps[part], counted[part])
        if has_groups:
            metrics[f"loss_by_group/{slot}"] = mean_by(loss, group[part], 2, counted[part])
    for name, features in terms.features.items():
        metrics |= {f"{name}/{key}": value for key, value in feature_metrics(features).items()}
    if terms.auxiliary_loss is not None:
        metrics["auxiliary_loss"] = terms.auxiliary_loss.detach()
    if terms.cosine is None or terms.token_cosine is None:
        return metrics
    metrics["teacher_student_cosine"] = terms.cosine.detach()
    teacher_timestep = terms.timesteps.cleanest[:, None].expand_as(terms.token_cosine)
    counted = counted[:, : terms.token_cosine.shape[1]]
    metrics["cosine_by_t"] = mean_by_timestep(terms.token_cosine, teacher_timestep, counted)
    return metrics


def feature_metrics(features: Tensor) -> dict[str, Tensor]:
    """Norm and diversity of features [G, N, D], as scalars; vanishing diversity means collapse.

    `norm`: mean norm of a token's features. `spread_batch`: standard deviation over samples at the
    same place; `spread_tokens`: over places of the same sample; both relative to the features' root
    mean square, 0 to 1. `rank`: participation ratio (sum e)^2 / sum e^2 of the eigenvalues e of the
    channels' covariance, 1 (all features on a line) to D; it needs no decomposition.
    """
    x = features.float()
    deviation = x - x.mean(dim=(0, 1))
    total = deviation.square().mean()
    flat = deviation.flatten(0, 1)
    covariance = flat.mT @ flat
    size = x.square().mean().sqrt()

    def within(dim: int) -> Tensor:
        """Total variance = within + between; much cheaper than `var` on a CPU."""
        return (total - deviation.mean(dim=dim).square().mean()).clamp(min=0).sqrt()

    return {
        "norm": x.norm(dim=-1).mean(),
        "spread_batch": within(0) / size,
        "spread_tokens": within(1) / size,
        "rank": covariance.trace().square() / covariance.square().sum(),
    }


def mean_by_timestep(values: Tensor, timesteps: Tensor, counted: Tensor) -> Tensor:
    """Means of `values` [10] in ten equal bins of the timesteps in [0, 1]; see `mean_by`."""
    bins = (timesteps * TIME_BINS).long().clamp(0, TIME_BINS - 1)
    return mean_by(values, bins, TIME_BINS, counted)


def mean_by(values: Tensor, group: Tensor, num_groups: int, counted: Tensor) -> Tensor:
    """Means of `values` in each group 0 .. num_groups - 1; NaN for empty groups.

    values, group (int64) and counted (bool) have the same shape; uncounted values are ignored.
    """
    # Not bincount, which makes the host wait for the device.
    groups = torch.arange(num_groups, device=values.device)
    member = (group.flatten()[:, None] == groups) & counted.flatten()[:, None]
    return (values.flatten()[:, None] * member).sum(dim=0) / member.sum(dim=0)
