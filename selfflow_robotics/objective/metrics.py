"""What to watch of a loss: where on the path the network errs, and how close the teacher is."""

from typing import Any

import torch
from torch import Tensor

from selfflow_robotics.objective.self_flow import LossTerms

TIME_BINS = 10


def loss_metrics(terms: LossTerms) -> dict[str, Any]:
    """Scalars and, for each slot, the loss in ten bins of the timestep, ready to be logged."""
    metrics: dict[str, Any] = {"flow_loss": terms.flow_loss.detach()}
    if terms.cosine is not None:
        metrics["teacher_student_cosine"] = terms.cosine.detach()
    sizes = [loss.shape[1] for loss in terms.token_loss.values()]
    timesteps = terms.timesteps.per_token.split(sizes, dim=1)
    for (slot, loss), t in zip(terms.token_loss.items(), timesteps, strict=True):
        metrics[f"loss_by_t/{slot}"] = loss_by_timestep(loss.detach(), t)
    return metrics


def loss_by_timestep(loss: Tensor, timesteps: Tensor) -> Tensor:
    """Means of `loss` [10] in ten equal bins of the timesteps in [0, 1]; NaN for empty bins."""
    bins = (timesteps * TIME_BINS).long().clamp(0, TIME_BINS - 1).flatten()
    total = torch.zeros(TIME_BINS, device=loss.device).index_add_(0, bins, loss.flatten())
    return total / torch.bincount(bins, minlength=TIME_BINS)
