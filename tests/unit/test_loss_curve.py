"""A golden loss curve: a refactoring must not change what a tiny run computes.

The numbers were recorded from these very runs in float32 on a CPU. Other processors add up in other
orders, which a few steps make visible, hence the tolerance.
"""

import json

import pytest
import torch

from selfflow_robotics.batch import Batch
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RELEASED_TIME, RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.training.loop import StepLoss, TrainConfig, train
from selfflow_robotics.training.optimizer import OptimizerConfig
from selfflow_robotics.training.state import TrainState
from tests.networks import as_slots, frames_slot, robot_network

STEPS, SIZE = 6, 8
TRAIN = TrainConfig(
    steps=STEPS, log_every=1, save_every=STEPS, optimizer=OptimizerConfig(warmup_steps=2)
)


def drawn(step, *shape):
    """Smooth numbers that no generator of random ones decides."""
    count = torch.arange(torch.Size(shape).numel(), dtype=torch.float32)
    return torch.sin(0.37 * count + step).view(shape)


def image_batch(network, step):
    frame = frames_slot(network, drawn(step, SIZE, 16, 16))
    return Batch({"first_frame": frame}, labels=(torch.arange(SIZE) + step) % 5)


def robot_batch(network, step):
    tokens = {
        "first_frame": drawn(step, SIZE, 4, 768),
        "later_frames": drawn(step + 1, SIZE, 8, 768),
        "actions": drawn(step + 2, SIZE, 6, 7),
    }
    return Batch(as_slots(network, tokens), ["pick", "place"] * (SIZE // 2))


SIT = SiTConfig(width=48, depth=4, heads=3)
IMAGES = image_config(
    SiTConfig(width=48, depth=4, heads=3, **RELEASED_TIME), latent_size=8, num_classes=5
)
ROBOT = robot_network(RobotConfig(SIT, image_size=(32, 32), later_frames=2))


@pytest.mark.parametrize(
    ("config", "batch", "roles", "expected"),
    [
        (IMAGES, image_batch, ["image"], [1.41364, 1.34521, 1.22665, 1.17335, 1.10727, 1.01924]),
        (
            ROBOT,
            robot_batch,
            ["policy", "world_model", "joint"],
            [1.47094, 8.1961, 46.69946, 1.36003, 40.0516, 43.71737],
        ),
    ],
    ids=["images", "robot"],
)
def test_a_tiny_run_has_the_losses_that_it_had(tmp_path, config, batch, roles, expected):
    torch.manual_seed(0)
    state = TrainState.start(Network(config), TRAIN.optimizer)

    def loss_fn(step, _):
        # A stream of its own: names of draws may change, the computation may not.
        generator = torch.Generator().manual_seed(step)
        terms = loss(
            state.model,
            state.teacher,
            batch(state.model, step),
            ROLES[roles[step % len(roles)]],
            ObjectiveConfig(),
            ConditioningConfig(frame_noise=0.2),
            generator,
            step=step,
        )
        return StepLoss(terms.loss, terms.num_tokens)

    train(
        TRAIN, state, lambda step: step, loss_fn, tmp_path,
        seed=0, device=torch.device("cpu"), precision="fp32", extra={},
    )  # fmt: skip
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses == pytest.approx(expected, rel=2e-3)
