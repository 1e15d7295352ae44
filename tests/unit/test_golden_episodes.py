"""Episodes of pick_coke_can that must never change: policies were trained on them.

The digests hold for the versions of MuJoCo and Ruckig named here (docs/reproducibility.md).
"""

import hashlib
import json
import platform
from importlib.metadata import version

import numpy as np
import pytest

from selfflow_robotics.envs.episodes import EpisodeSpec, draw_start
from selfflow_robotics.envs.tabletop.env import TabletopEnv
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.evaluation.probing.frames import probe_episodes
from selfflow_robotics.evaluation.protocol import evaluation_episodes
from selfflow_robotics.policies.demonstrator import Demonstrator, Player
from selfflow_robotics.policies.expert import ScriptedExpert

TASK = get_task("pick_coke_can")
VERSIONS = {"mujoco": "4.0.0", "ruckig": "0.19.4"}
HERE = {name: version(name) for name in VERSIONS}
same_physics = pytest.mark.skipif(
    HERE != VERSIONS or platform.machine() != "x86_64", reason=f"the digests are of {VERSIONS}"
)


@pytest.fixture(scope="module")
def env():
    return TabletopEnv(TASK)


def add(digest, value) -> None:
    """Update a digest with nested dicts, arrays and scalars."""
    if isinstance(value, dict):
        for key, item in value.items():
            digest.update(key.encode())
            add(digest, item)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
    else:
        digest.update(repr(value).encode())


def rollout(env, policy, spec, steps, look_every) -> str:
    """First digits of the SHA-256 over infos, observations and actions."""
    digest = hashlib.sha256()
    info = env.begin(spec.seed, {"variant": spec.variant, **spec.options})
    policy.begin(0, spec)
    for step in range(steps):
        add(digest, info)
        if step % look_every == 0:
            add(digest, env.observe())
        action = policy.act([0], [{}], [info])[0][0]
        add(digest, action)
        info = env.advance(action)
    add(digest, info)
    return digest.hexdigest()[:16]


@same_physics
@pytest.mark.parametrize(
    ("policy", "variant", "seed", "steps", "digest"),
    [
        (ScriptedExpert(), "standing", 0, 24, "284bd04fc95d050f"),
        (ScriptedExpert(), "horizontal", 1, 24, "d5837764d14f7f7a"),
        (ScriptedExpert(), "vertical", 2, 24, "db928f4271e44c41"),
        (Demonstrator(1.0), "standing", 1_000_000, 40, "84e6d8bb4909fbb4"),  # wanders first
        (Demonstrator(1.0), "horizontal", 1_000_001, 40, "329754f425a1782d"),
        (Demonstrator(1.0), "vertical", 1_000_003, 40, "d432e1b9d14993e8"),
        (Player(), "vertical", 500_000, 40, "b5d3203cc7a1372e"),
    ],
)
def test_rollouts(env, policy, variant, seed, steps, digest):
    assert rollout(env, policy, EpisodeSpec(TASK.name, variant, seed), steps, 8) == digest


def test_starts():
    starts = [draw_start(TASK, seed, {}, robot_variant=("a", "b", "c")) for seed in range(50)]
    assert hashlib.sha256(json.dumps(starts).encode()).hexdigest()[:16] == "e327120b457eb1a9"


@pytest.mark.parametrize(
    ("simulator", "protocol", "count", "digest"),
    [
        ("tabletop", "random", 100, "094e7ffdb20bc7e5"),
        ("tabletop", "grid", 75, "d17adaeba08e5975"),
        ("simpler", "random", 100, "094e7ffdb20bc7e5"),
        ("simpler", "grid", 75, "cc5c282ce4304e21"),
        ("simpler", "visual_matching", 300, "165da77bbe6f2e26"),
    ],
)
def test_episodes_of_protocols(simulator, protocol, count, digest):
    episodes = evaluation_episodes(TASK, simulator, protocol, None, seed=1)
    assert len(episodes) == count
    assert listed(episodes) == digest


def test_episodes_of_probes():
    assert listed(probe_episodes(TASK, 40, 1)) == "48a3fb2de87dbe7a"


def listed(episodes) -> str:
    rows = [[e.task, e.variant, e.seed, e.options] for e in episodes]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
