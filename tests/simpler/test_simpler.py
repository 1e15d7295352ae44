"""The adapter to the real SIMPLER: recorded episodes, repeatability, pictures."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.simpler.preflight import check_simpler
from selfflow_robotics.envs.simpler.robots import ROBOTS
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.errors import UserError

RECORDINGS = Path(__file__).parents[1] / "golden" / "simpler_rollouts.npz"
WANDER_XY = [-0.3324490934439898, 0.3231642685856504]
# Where the object was let go in each recorded episode; settled, it lies up to a millimetre away.
STARTS = {
    "pick_upright_0": ("standing", [-0.2062280426809266, 0.3747740724266132]),
    "pick_upright_1": ("standing", [-0.17159229124360548, 0.07909116359586041]),
    "pick_upright_2": ("standing", [-0.28096175447041816, 0.36436351597435523]),
    "pick_horizontal_0": ("horizontal", [-0.3487889799499178, 0.34134050408841715]),
    "pick_horizontal_1": ("horizontal", [-0.16667403138702935, 0.18589137925123717]),
    "pick_horizontal_2": ("horizontal", [-0.2803025418315579, 0.10250726932434026]),
    "pick_laid_vertically_0": ("vertical", [-0.29137999483955135, 0.17583357458836452]),
    "pick_laid_vertically_1": ("vertical", [-0.23395390043967074, 0.2235388349127767]),
    "pick_laid_vertically_2": ("vertical", [-0.12103493481008967, 0.3287712444540513]),
    "wander_pick_0": ("standing", WANDER_XY),
    "wander_pick_1": ("standing", WANDER_XY),
    "wander_pick_2": ("standing", WANDER_XY),
}
# Bit-equal on the machine of the recording; other processors may round otherwise.
TOLERANCE = 1e-4


def start(simpler, options, seed=0, observe=False):
    return simpler.call("reset", seed=seed, options=options, observe=observe)


def play(simpler, actions, observe="none"):
    return simpler.call("run", actions=actions, observe=observe)


@pytest.fixture(scope="module")
def recordings():
    with np.load(RECORDINGS) as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.mark.parametrize("name", STARTS)
def test_recorded_episode_repeats(simpler, recordings, name):
    variant, xy = STARTS[name]
    begun = start(simpler, {"variant": variant, "object_xy": xy, "robot_variant": "base"})
    infos = [begun["info"], *play(simpler, recordings[f"{name}/action"])["infos"]]
    for key, recorded in (("tool_pose", "tcp"), ("object_pose", "obj"), ("qpos", "qpos")):
        expected = recordings[f"{name}/{recorded}"]
        measured = np.array([info["state"][key] for info in infos])
        if recorded == "obj" and np.abs(expected[:, :3]).max() > 10:
            continue  # the object was flung off the table and falls for ever
        assert_allclose(measured, expected, atol=TOLERANCE, err_msg=key)
    successes = [info["success"] for info in infos[1:]]
    assert_array_equal(successes, recordings[f"{name}/success"])


def test_an_episode_is_decided_by_its_seed_alone(simpler):
    actions = np.random.default_rng(0).uniform(-0.05, 0.05, (5, 7)).astype(np.float32)

    def episode(seed):
        begun = start(simpler, {}, seed=seed, observe=True)
        return begun, play(simpler, actions, observe="last")

    first, other, again = episode(11), episode(12), episode(11)
    assert first[0]["info"]["episode"] == again[0]["info"]["episode"]
    assert first[0]["info"]["episode"] != other[0]["info"]["episode"]
    for a, b in zip(first[1]["infos"], again[1]["infos"], strict=True):
        for key, value in a["state"].items():
            assert_array_equal(value, b["state"][key])
    image, same = (run[1]["observations"][0]["image"] for run in (first, again))
    assert_array_equal(image, same)


@pytest.mark.parametrize("robot_variant", ROBOTS["google_robot"].variants)
def test_observation(simpler, robot_variant):
    begun = start(simpler, {"robot_variant": robot_variant}, observe=True)
    observation = begun["observation"]
    assert observation["image"].shape == (256, 320, 3)
    assert observation["image"].dtype == np.uint8
    assert observation["instruction"] == "pick coke can"
    # The tool at rest in the base's frame, by SIMPLER's own observation.
    expected = [0.439384, -0.218417, 0.961869, -0.603852, 0.780173, -0.032499, 0.160115, 0.0]
    assert_allclose(observation["proprio"], expected, atol=1e-5)


def test_wrong_option_is_the_users_mistake(simpler):
    with pytest.raises(UserError, match="unknown variant 'flying'"):
        start(simpler, {"variant": "flying"})


def test_the_spec_starts_the_adapter_itself():
    path, python = os.environ["SIMPLER_ENV_PATH"], os.environ["SIMPLER_PYTHON"]
    check_simpler(path, python)
    spec = SimulatorSpec(simulator="simpler", image_size=(256, 320), python=python, path=path)
    with SimulatorClient(spec) as client:
        provenance = client.call("provenance")
    assert provenance["simulator"] == "simpler"
    assert provenance["sapien"] == "2.2.2"
