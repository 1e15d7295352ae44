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
from selfflow_robotics.envs.tasks.base import DRAWERS
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, TASKS, get_task
from selfflow_robotics.envs.tasks.drawers import STANDS
from selfflow_robotics.errors import UserError

RECORDINGS = Path(__file__).parents[1] / "golden" / "simpler_rollouts.npz"
APPLE = "place_apple_in_closed_top_drawer"
TABLE_TOP = 0.8875  # m, world
WANDER_XY = [-0.3324490934439898, 0.3231642685856504]
# Where the can was let go in each recorded episode; settled, it lies up to a millimetre away.
PICKS = {
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
# Recorded episode -> task and the options that start it.
STARTS = {
    **{
        name: ("pick_coke_can", {"variant": variant, "object_xy": xy})
        for name, (variant, xy) in PICKS.items()
    },
    "wander_near_0": (
        "move_near",
        {"variant": "7up-apple-sponge", "roles": "0-1", "layout": "near-base"},
    ),
    "wander_near_1": (
        "move_near",
        {"variant": "orange-pepsi-redbull", "roles": "0-1", "layout": "far-base"},
    ),
    "wander_open_top_drawer": ("open_drawer", {"variant": "top", "stand": "b1"}),
    "wander_open_middle_drawer": ("open_drawer", {"variant": "middle", "stand": "b1"}),
    "wander_close_top_drawer": ("close_drawer", {"variant": "top", "stand": "b1"}),
    "wander_close_bottom_drawer": ("close_drawer", {"variant": "bottom", "stand": "b1"}),
    "wander_apple": (
        "place_apple_in_closed_top_drawer",
        {"variant": "a0", "object_xy": [-0.09618458553130214, 0.07799187922401146]},
    ),
}
# Recorded array -> the same in `info["state"]`.
ARRAYS = {
    "tcp": lambda state: state["tool_pose"],
    "qpos": lambda state: state["qpos"],
    "obj": lambda state: state["object_pose"],
    "episode_source_obj": lambda state: state["object_pose"],
    "episode_target_obj": lambda state: state["other_poses"][0],
    "drawers": lambda state: state["drawers"],
}
# Bit-equal on the machine of the recording; other processors may round otherwise.
TOLERANCE = 1e-4
# Recorded after a reset that does not rebuild the scene: the apple lies turned about the vertical
# by 0.2 degrees. Nothing touches it.
TURNED = {("wander_near_0", "episode_target_obj"): 2e-3}


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
    task, options = STARTS[name]
    client = simpler(task)
    unshifted = {"shift_xy": [0.0, 0.0]} if task == "move_near" else {}
    begun = start(client, {**options, **unshifted, "robot_variant": "base"})
    infos = [begun["info"], *play(client, recordings[f"{name}/action"])["infos"]]
    for key, of in ARRAYS.items():
        if f"{name}/{key}" not in recordings:
            continue
        expected = recordings[f"{name}/{key}"]
        if key == "obj" and np.abs(expected[:, :3]).max() > 10:
            continue  # the object was flung off the table and falls for ever
        measured = np.array([of(info["state"]) for info in infos])
        atol = TURNED.get((name, key), TOLERANCE)
        assert_allclose(measured, expected, atol=atol, rtol=0, err_msg=key)
    assert_allclose(
        begun["info"]["state"]["base_pose"], recordings[f"{name}/base_pose"], atol=TOLERANCE
    )
    successes = [info["success"] for info in infos[1:]]
    assert_array_equal(successes, recordings[f"{name}/success"])


@pytest.mark.parametrize("stand", STANDS)
def test_the_cabinet_is_seen_from_every_stand(simpler, stand):
    """The client compares picture and instruction with SIMPLER's own."""
    drawer = DRAWERS[list(STANDS).index(stand) % len(DRAWERS)]
    client = simpler("close_drawer")
    begun = start(client, {"variant": drawer, "stand": stand}, observe=True)
    assert begun["observation"]["instruction"] == f"close {drawer} drawer"
    x, y, yaw = STANDS[stand]
    pose = begun["info"]["state"]["base_pose"]
    assert_allclose(pose[:2], [x, y], atol=1e-6)
    assert_allclose(pose[3:], [-np.sin(yaw / 2), 0, 0, np.cos(yaw / 2)], atol=1e-6)
    expected = [0.2 * (name == drawer) for name in DRAWERS]
    assert_allclose(begun["info"]["state"]["drawers"], expected, atol=1e-6)


def test_every_stand_has_its_photograph(simpler):
    """Another stand, another background, in the same process."""
    first, other, again = (
        start(simpler("close_drawer"), {"variant": "top", "stand": stand}, observe=True)
        for stand in ("a0", "c2", "a0")
    )
    first, other, again = (run["observation"]["image"] for run in (first, other, again))
    corner = np.s_[:40, :60]  # seen of the room alone
    assert_array_equal(first[corner], again[corner])
    assert (first[corner] != other[corner]).mean() > 0.5


@pytest.mark.parametrize("index", range(0, 60, 5))
def test_move_near_lays_out_its_objects(simpler, index):
    task = TASKS["move_near"]
    cell = task.grid()[index] | {"shift_xy": [0.015, -0.02]}
    begun = start(simpler("move_near"), cell, observe=index == 0)
    state = begun["info"]["state"]
    found = [state["object_pose"], *state["other_poses"]]
    for pose, placed in zip(found, task.scene(begun["info"]["episode"]).objects, strict=True):
        assert_allclose(pose[:2], placed.xy, atol=0.006)  # it rolls or tilts a little
    assert {"moved_correct_obj", "near_tgt_obj"} <= set(begun["info"])


@pytest.mark.parametrize("variant", TASKS["pick_object"].variants)
def test_each_object_lies_as_the_task_says(simpler, variant):
    """The client compares picture and instruction with SIMPLER's own."""
    client, task = simpler("pick_object"), TASKS["pick_object"]
    options = {"variant": variant, "orientation": "vertical", "object_xy": [-0.2, 0.2]}
    try:
        begun = start(client, options, observe=True)
    except UserError as error:
        pytest.skip(str(error))  # this checkout lacks the object
    assert begun["observation"]["instruction"] == f"pick {variant}"
    [placed] = task.scene(begun["info"]["episode"]).objects
    pose = begun["info"]["state"]["object_pose"]
    assert_allclose(pose[:2], placed.xy, atol=0.006)
    assert_allclose(pose[2] - TABLE_TOP, placed.rest.height, atol=0.002)


@pytest.mark.parametrize(
    "name", ["open_drawer@darker_light", "close_drawer@cabinet_3", f"{APPLE}@brighter_light"]
)
def test_other_surroundings_are_seen(simpler, name):
    """The client compares picture and instruction with SIMPLER's own."""
    task = get_task(name)
    options = {key: value for key, value in task.grid()[-1].items() if key in task.starts}
    begun = start(simpler(name), {**options, "robot_variant": "base"}, observe=True)
    base = begun["info"]["state"]["base_pose"]
    assert_allclose(base[:2], task.scene(begun["info"]["episode"]).base_xy, atol=1e-6)


def test_the_second_stage_begins_after_100_steps(simpler):
    client = simpler("place_apple_in_closed_top_drawer")
    said = [start(client, {"variant": "b0"}, observe=True)["observation"]["instruction"]]
    for steps in (100, 1):
        still = np.zeros((steps, 7), np.float32)
        said.append(play(client, still, observe="last")["observations"][0]["instruction"])
    assert said == ["open top drawer", "open top drawer", "place apple into top drawer"]


def test_an_episode_is_decided_by_its_seed_alone(simpler):
    actions = np.random.default_rng(0).uniform(-0.05, 0.05, (5, 7)).astype(np.float32)

    def episode(seed):
        begun = start(simpler(), {}, seed=seed, observe=True)
        return begun, play(simpler(), actions, observe="last")

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
    begun = start(simpler(), {"robot_variant": robot_variant}, observe=True)
    observation = begun["observation"]
    assert observation["image"].shape == (256, 320, 3)
    assert observation["image"].dtype == np.uint8
    assert observation["instruction"] == "pick coke can"
    # The tool at rest in the base's frame, by SIMPLER's own observation.
    expected = [0.439384, -0.218417, 0.961869, -0.603852, 0.780173, -0.032499, 0.160115, 0.0]
    assert_allclose(observation["proprio"], expected, atol=1e-5)


def test_wrong_option_is_the_users_mistake(simpler):
    with pytest.raises(UserError, match="unknown variant 'flying'"):
        start(simpler(), {"variant": "flying"})


def test_the_spec_starts_the_adapter_itself():
    path, python = os.environ["SIMPLER_ENV_PATH"], os.environ["SIMPLER_PYTHON"]
    check_simpler(path, python, TASKS[DEFAULT_TASK])
    spec = SimulatorSpec(simulator="simpler", image_size=(256, 320), python=python, path=path)
    with SimulatorClient(spec) as client:
        provenance = client.call("provenance")
    assert provenance["simulator"] == "simpler"
    assert provenance["sapien"] == "2.2.2"
