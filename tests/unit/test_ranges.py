"""Settings out of their range are refused where they are made, each in one line."""

import pytest

from selfflow_robotics.errors import UserError
from selfflow_robotics.flow.guidance import check_scale
from selfflow_robotics.flow.timesteps import TimestepConfig, _plateau_quantiles
from selfflow_robotics.inference.generate import Sampling
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.rng import check_seed
from selfflow_robotics.rollouts.demonstrations import CollectConfig

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (CollectConfig, {"image_size": (0, 0)}, "image_size must be"),
        (CollectConfig, {"image_size": (-64, 80)}, "image_size must be"),
        (RobotConfig, {"later_frames": 1000}, "at most 100, got 1000"),
        (SiTConfig, {"mlp_ratio": 1e9}, "mlp_ratio must be in"),
        (TimestepConfig, {"mean": 21.0}, "timesteps.mean"),
        (TimestepConfig, {"mean": NAN}, "timesteps.mean"),
        (TimestepConfig, {"std": 0.0}, "timesteps.std"),
        (TimestepConfig, {"std": INF}, "timesteps.std"),
        (TimestepConfig, {"shift": 1e4}, "timesteps.shift"),
        (TimestepConfig, {"shift": NAN}, "timesteps.shift"),
        (ObjectiveConfig, {"gamma": INF}, "objective.gamma"),
        (ObjectiveConfig, {"gamma": NAN}, "objective.gamma"),
        (ObjectiveConfig, {"target": "student", "teacher_view": "cleaner"}, "has no effect"),
        (ObjectiveConfig, {"target": "encoder", "teacher_view": "cleaner"}, "has no effect"),
        (Sampling, {"guidance_scale": -3.0}, "guidance_scale"),
        (Sampling, {"guidance_scale": NAN}, "guidance_scale"),
        (Sampling, {"shift": 1e4}, "shift must be in"),
        (check_scale, {"scale": -3.0}, "guidance_scale"),
        (_plateau_quantiles, {"mean": 20.0, "std": 0.1, "device": "cpu"}, "timesteps.std"),
    ],
)
def test_it_is_refused(make, settings, message):
    with pytest.raises(UserError, match=message):
        make(**settings)


@pytest.mark.parametrize("seed", [-1, 2**63, 99999999999999999999999])
def test_seeds_fit_torch(seed):
    check_seed(2**63 - 1)
    with pytest.raises(ValueError, match=r"seed must be from 0 to 2 \*\* 63 - 1"):
        check_seed(seed)
