"""Episodes of WidowX's tasks that must never change: policies are trained on them.

The digests hold for the versions of MuJoCo and Ruckig named in `test_golden_episodes`.
"""

import pytest

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tabletop.env import TabletopEnv
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.evaluation.protocol import evaluation_episodes
from selfflow_robotics.policies.demonstrator import Demonstrator
from selfflow_robotics.policies.expert import ScriptedExpert
from tests.unit.test_golden_episodes import listed, rollout, same_physics


@same_physics
@pytest.mark.parametrize(
    ("policy", "task", "variant", "seed", "digest"),
    [
        (ScriptedExpert(), "spoon_on_towel", "crosswise", 1, "ab69c260141f908c"),
        (ScriptedExpert(), "carrot_on_plate", "lengthwise", 0, "f6d10d17c2ef9662"),
        (ScriptedExpert(), "stack_cube", "far", 1, "c7b7831b1ee0d07b"),
        (ScriptedExpert(), "put_eggplant_in_basket", "left", 1, "a4e22acfe76b351c"),
        (Demonstrator(1.0), "carrot_on_plate", "crosswise", 1_000_001, "141fe7a7d64a1818"),
    ],
)
def test_rollouts(policy, task, variant, seed, digest):
    env = TabletopEnv(get_task(task))
    assert rollout(env, policy, EpisodeSpec(task, variant, seed), 32, 8) == digest


@pytest.mark.parametrize(
    ("task", "digest"),
    [
        ("spoon_on_towel", "705a23322faa32be"),
        ("carrot_on_plate", "5c155eed8412dd76"),
        ("stack_cube", "c537bbe3d660c1e7"),
        ("put_eggplant_in_basket", "a08534d808f00efe"),
    ],
)
def test_episodes_of_the_grid(task, digest):
    for protocol in ("grid", "visual_matching"):
        episodes = evaluation_episodes(get_task(task), "simpler", protocol, None, seed=0)
        assert len(episodes) == 24
        assert listed(episodes) == digest
