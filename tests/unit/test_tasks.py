"""What every task promises, whatever it is about."""

import importlib
import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from selfflow_robotics.envs.episodes import EpisodeSpec, draw_start
from selfflow_robotics.envs.simpler.robots import ROBOTS
from selfflow_robotics.envs.tabletop.env import TabletopEnv
from selfflow_robotics.envs.tasks import catalog
from selfflow_robotics.envs.tasks.base import DRAWERS, Choice, Range
from selfflow_robotics.envs.tasks.catalog import (
    DEFAULT_TASK,
    TASKS,
    get_task,
    get_tasks,
    own_names,
    short_names,
)
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.probing.frames import TARGETS, contents
from selfflow_robotics.evaluation.protocol import evaluation_episodes
from selfflow_robotics.policies.expert import ScriptedExpert
from selfflow_robotics.rollouts.demonstrations import CollectConfig

FILES = Path(catalog.__file__).parent
DOCUMENTED = Path(__file__).parents[2] / "docs" / "tasks.md"
# The expert's successes of its first episodes, one a variant and seed: (least, episodes).
EXPERT = {
    "move_near": (9, 10),
    "move_near_v0": (1, 1),  # the same
    "pick_coke_can": (6, 6),
    "pick_horizontal_coke_can": (2, 2),
    "pick_standing_coke_can": (2, 2),
    "pick_vertical_coke_can": (2, 2),
    "open_drawer": (6, 6),
    "close_drawer": (6, 6),
    # These are the same episodes for one drawer.
    **{f"{verb}_{drawer}_drawer": (1, 1) for verb in ("open", "close") for drawer in DRAWERS},
    "pick_object": (14, 14),
    "place_apple_in_closed_top_drawer": (3, 3),
    "put_can_on_plate": (3, 3),
    "spoon_on_towel": (4, 4),
    "carrot_on_plate": (4, 4),
    "stack_cube": (4, 4),
    "put_eggplant_in_basket": (6, 6),
}
HOLD_STEPS = 3

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())


@pytest.fixture(scope="module")
def envs():
    made = {}
    return lambda task: made.setdefault(task.name, TabletopEnv(task, (16, 20)))


def starts(task, count=20):
    return [draw_start(task, seed, {}) for seed in range(count)]


@every_task
def test_a_task_is_found_by_its_name_and_in_its_own_file(task):
    assert get_task(task.name) is task
    assert Path(f"{FILES}/{type(task).__module__.rpartition('.')[2]}.py").is_file()
    assert task.robot.name in ROBOTS
    assert set(task.targets) <= set(TARGETS)


def test_there_is_a_default_task():
    assert DEFAULT_TASK in TASKS


@pytest.mark.parametrize("name", ["pick_coke", "pick_coke_cans", "Pick_coke_can"])
def test_an_unknown_task_names_the_nearest(name):
    with pytest.raises(UserError, match="did you mean pick_coke_can") as raised:
        get_task(name)
    assert "\n" not in str(raised.value)


def test_names_of_several_tasks_are_suggested_and_not_taken_for_one():
    with pytest.raises(UserError, match="did you mean widowx"):
        get_tasks("widow")
    with pytest.raises(UserError, match="drawer means several tasks; choose one of open_drawer"):
        get_task("drawer")
    assert own_names(" drawer,google_robot_move_near") == "drawer,move_near"
    assert short_names("all,move_near,move_near") == "all"
    assert short_names("move_near,open_drawer,move_near") == "move_near,open_drawer"
    assert [task.name for task in get_tasks("drawer , open_drawer")] == [
        "open_drawer",
        "close_drawer",
    ]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("google_robot_pick_coke_can", "pick_coke_can"),
        ("google_robot_pick_horizontal_coke_can", "pick_horizontal_coke_can"),
        ("google_robot_move_near", "move_near"),
        ("google_robot_move_near_v1", "move_near"),
        ("google_robot_move_near_v0", "move_near_v0"),
        ("google_robot_pick_object", "pick_object"),
        ("google_robot_open_drawer", "open_drawer"),
        ("google_robot_close_middle_drawer", "close_middle_drawer"),
        ("google_robot_place_apple_in_closed_top_drawer", "place_apple_in_closed_top_drawer"),
        ("widowx_spoon_on_towel", "spoon_on_towel"),
        ("widowx_carrot_on_plate", "carrot_on_plate"),
        ("widowx_stack_cube", "stack_cube"),
        ("widowx_put_eggplant_in_basket", "put_eggplant_in_basket"),
    ],
)
def test_simplers_names_are_understood(theirs, ours):
    assert get_task(theirs) is TASKS[ours]
    config = CollectConfig(task=theirs)
    assert config.task == config.spec.task == ours
    assert ours in config.dataset_name
    assert theirs not in config.dataset_name
    with pytest.raises(UserError, match=f"did you mean .*{ours}"):
        get_task(f"{theirs}z")


@every_task
def test_episodes_are_drawn_from_the_seed(task):
    episodes = starts(task)
    assert episodes == starts(task)
    assert json.loads(json.dumps(episodes)) == episodes
    assert len({json.dumps(episode) for episode in episodes}) == len(episodes)
    for episode in episodes:
        assert set(episode) == {"seed", *task.starts}
        for name, option in task.starts.items():
            assert option.check(name, episode[name]) == episode[name]
            if isinstance(option, Range):
                assert (np.array(option.low) <= episode[name]).all()
                assert (np.array(option.high) >= episode[name]).all()
    # What was drawn repeats the episode, and an option leaves the other draws alone.
    options = {name: episodes[0][name] for name in task.starts}
    assert draw_start(task, 0, options) == episodes[0]
    for name, value in options.items():
        assert draw_start(task, 1, {name: value}) == episodes[1] | {name: value}


@every_task
def test_wrong_options_are_refused(task):
    with pytest.raises(UserError, match="unknown episode option 'colour'"):
        draw_start(task, 0, {"colour": "red"})
    for name, option in task.starts.items():
        wrong = ["", 3, None] if isinstance(option, Choice) else ["here", [0.1], None, [np.nan] * 2]
        for value in wrong:
            with pytest.raises(UserError, match=name):
                draw_start(task, 0, {name: value})


@every_task
def test_an_episode_has_words_a_scene_and_a_plan(task, envs):
    words = envs(task).observation_space["instruction"]
    for episode in starts(task):
        instructions = task.instructions(episode)
        assert instructions
        assert all(text and text in words for text in instructions)
        scene = task.scene(episode)
        assert {item.body for item in scene.objects} <= set(task.bodies)
        assert all(item.rest in item.body.rests.values() for item in scene.objects)
        for skill in task.plan(episode):
            assert getattr(skill, "item", -1) < len(scene.objects)
            assert getattr(skill, "drawer", -1) < len(scene.drawers or ())
        assert task.plan(episode)


@every_task
def test_the_grid_has_different_legal_starts(task):
    cells = task.grid()
    assert len({json.dumps(cell, sort_keys=True) for cell in cells}) == len(cells)
    for cell in cells:
        assert draw_start(task, 0, cell).items() >= cell.items()
    if cells:
        grid = evaluation_episodes(task, "tabletop", "grid", None, 0)
        assert [{"variant": e.variant, **e.options} for e in grid] == list(cells)
    else:
        with pytest.raises(UserError, match="no official grid"):
            evaluation_episodes(task, "tabletop", "grid", None, 0)


def test_simpler_numbers_the_episodes_of_move_near_as_the_grid_does():
    task = TASKS["move_near"]
    for index, cell in enumerate(task.grid()):
        assert task.bound().object_options(cell) == {"episode_id": index}
        layouts = task.bound().attributes(cell | {"shift_xy": [0.01, -0.02]})
        places = layouts["_xy_config_per_triplet"][index % 12 // 6]
        scene = task.scene(cell | {"shift_xy": [0.01, -0.02]})
        assert {tuple(xy) for xy in places} == {placed.xy for placed in scene.objects}


@every_task
def test_the_tabletop_plays_it(task, envs):
    env = envs(task)
    observation, info = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    assert observation in env.observation_space
    assert observation["instruction"] == task.instructions(info["episode"])[0]
    np.testing.assert_array_equal(observation["image"], again["image"])
    state, scene = info["state"], task.scene(info["episode"])
    poses = [state["object_pose"]] if "object_pose" in state else []
    poses += list(state.get("other_poses", []))
    assert [pose.shape for pose in poses] == [(7,)] * len(scene.objects)
    assert state.get("drawers", np.empty(0)).tolist() == list(scene.drawers or ())
    assert not info["success"]
    assert not any(env.advance(np.zeros(7, np.float32))["success"] for _ in range(3))
    assert set(contents(state, task.targets)) == set(task.targets)


@every_task
def test_the_expert_solves_it(task, envs):
    env, expert = envs(task), ScriptedExpert()
    assert task.name in EXPERT, f"{task.name} needs a row in EXPERT, in this file"
    least, count = EXPERT[task.name]
    successes = 0
    for seed in range(count):
        spec = EpisodeSpec(task.name, task.variants[seed % len(task.variants)], seed)
        info = env.begin(seed, {"variant": spec.variant})
        expert.begin(0, spec)
        held = 0
        while info["elapsed_steps"] < task.max_episode_steps and held < HOLD_STEPS:
            info = env.advance(expert.act([0], [{}], [info])[0][0])
            held = held + 1 if info["success"] else 0
        successes += held == HOLD_STEPS
    assert successes >= least


def test_the_documented_example_keeps_these_promises(envs, tmp_path, monkeypatch):
    pattern = r"Save this as `.*/(\w+)\.py`:\n\n((?: {4}.*\n|\n)+)"
    [(name, code)] = re.findall(pattern, DOCUMENTED.read_text())
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    task = importlib.import_module(name).PutAppleOnPlate()
    assert task.name == name
    assert set(task.targets) <= set(TARGETS)
    test_episodes_are_drawn_from_the_seed(task)
    test_wrong_options_are_refused(task)
    test_an_episode_has_words_a_scene_and_a_plan(task, envs)
    test_the_grid_has_different_legal_starts(task)
    test_the_tabletop_plays_it(task, envs)
