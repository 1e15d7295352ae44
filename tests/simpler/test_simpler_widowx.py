"""WidowX's tasks in the real SIMPLER: recorded episodes, pictures, the expert, missing files."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.simpler.preflight import SimplerMissing, check_simpler
from selfflow_robotics.envs.tasks.catalog import GROUPS, TASKS
from selfflow_robotics.policies.expert import ScriptedExpert

RECORDINGS = Path(__file__).parents[1] / "golden" / "simpler_widowx.npz"
# The number in its task's grid of each recorded episode.
CELLS = {
    "carrot_on_plate": 5,
    "spoon_on_towel": 4,
    "stack_cube": 14,
    "put_eggplant_in_basket": 9,
}
EPISODES = [
    *(f"expert_{task}" for task in CELLS),
    "wander_carrot_on_plate",
    "wander_put_eggplant_in_basket",
]
ARRAYS = {
    "tcp": lambda state: state["tool_pose"],
    "qpos": lambda state: state["qpos"],
    "source": lambda state: state["object_pose"],
    "target": lambda state: state["other_poses"][0],
}


def start(client, options, observe=False):
    return client.call("reset", seed=0, options=options, observe=observe)


@pytest.fixture(scope="module")
def recordings():
    with np.load(RECORDINGS) as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.mark.parametrize("name", EPISODES)
def test_recorded_episode_repeats(simpler, recordings, name):
    task = name.partition("_")[2]
    client = simpler(task)
    begun = start(client, TASKS[task].grid()[CELLS[task]])
    actions = recordings[f"{name}/action"]
    infos = [begun["info"], *client.call("run", actions=actions, observe="none")["infos"]]
    for key, of in ARRAYS.items():
        measured = np.array([of(info["state"]) for info in infos])
        assert_allclose(measured, recordings[f"{name}/{key}"], atol=1e-4, rtol=0, err_msg=key)
    assert_array_equal([info["success"] for info in infos[1:]], recordings[f"{name}/success"])


@pytest.mark.parametrize("task", GROUPS["widowx"])
def test_it_is_seen_as_simpler_shows_it(simpler, task):
    """The client compares picture and instruction with SIMPLER's own."""
    begun = start(simpler(task), TASKS[task].grid()[0], observe=True)
    observation, info = begun["observation"], begun["info"]
    assert observation["image"].shape == (256, 320, 3)
    assert observation["image"].std() > 20
    assert observation["instruction"] == TASKS[task].words
    assert observation["proprio"].shape == (8,)
    assert {"src_on_target", "moved_correct_obj"} <= set(info)
    assert len(info["state"]["qpos"]) == 8


@pytest.mark.parametrize("task", GROUPS["widowx"])
def test_the_grid_is_24_different_starts(simpler, task):
    states = set()
    for cell in TASKS[task].grid():
        state = start(simpler(task), cell)["info"]["state"]
        poses = np.stack([state["object_pose"], state["other_poses"][0]])
        assert_allclose(state["base_pose"][3:], [0, 0, 0, 1], atol=1e-6)
        states.add(poses.round(4).tobytes())
    assert len(states) == 24


@pytest.mark.parametrize("task", GROUPS["widowx"])
def test_the_expert_solves_it(simpler, task):
    client, expert = simpler(task), ScriptedExpert()
    cell = TASKS[task].grid()[3]
    options = {key: value for key, value in cell.items() if key != "variant"}
    expert.begin(0, EpisodeSpec(task, cell["variant"], 0, options))
    info = start(client, cell)["info"]
    for _ in range(TASKS[task].max_episode_steps):
        action = expert.act([0], [{}], [info])[0]
        (info,) = client.call("run", actions=action, observe="none")["infos"]
    assert info["success"]


def test_a_missing_mesh_is_named():
    path, python = os.environ["SIMPLER_ENV_PATH"], os.environ["SIMPLER_PYTHON"]
    task = TASKS["put_eggplant_in_basket"]
    folder = Path(path) / "ManiSkill2_real2sim/data/custom/models/eggplant"
    if any(folder.glob("textured.???")):
        pytest.skip("this checkout has the eggplant's mesh")
    with pytest.raises(SimplerMissing, match=r"custom/models/eggplant.*invisible") as caught:
        check_simpler(path, python, task)
    assert "\n" not in str(caught.value)
    check_simpler(path, python, task, allow_invisible=True)
