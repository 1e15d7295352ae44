"""SIMPLER's variant aggregation: its episodes, and what of a checkout they need."""

import json

import pytest

from selfflow_robotics.envs.episodes import draw_start
from selfflow_robotics.envs.simpler.assets import STAND_IN_BYTES, check_assets, photographs
from selfflow_robotics.envs.simpler.robots import ROBOTS, colours_of
from selfflow_robotics.envs.spec import SimulatorSpec, make_env
from selfflow_robotics.envs.tasks.catalog import TASKS, get_task, get_tasks
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.ledger import EpisodeRecord
from selfflow_robotics.evaluation.protocol import (
    evaluation_episodes,
    resolve_protocol,
    tasks_of,
)
from selfflow_robotics.evaluation.report import Report
from selfflow_robotics.evaluation.summary import Summary
from selfflow_robotics.policies.expert import plan_of
from selfflow_robotics.rollouts.demonstrations import CollectConfig

PROTOCOL = "variant_aggregation"
ALL = [own for task in get_tasks("all") for own in tasks_of(task, PROTOCOL)]
# SIMPLER's numbers: surroundings, episodes in all of them.
COUNTS = {
    "pick_coke_can": (9, 675),
    "move_near": (8, 480),
    "open_drawer": (7, 378 // 2),
    "close_drawer": (7, 378 // 2),
    "place_apple_in_closed_top_drawer": (7, 189),
}


@pytest.mark.parametrize("name", COUNTS)
def test_it_has_simplers_numbers_of_different_legal_episodes(name):
    surroundings = tasks_of(TASKS[name], PROTOCOL)
    starts = set()
    for task in surroundings:
        binding = task.bound()
        seen = [binding.env_id, binding.stage, binding.settings]
        for spec in evaluation_episodes(task, "simpler", PROTOCOL, None, seed=0):
            options = {"variant": spec.variant, **spec.options}
            robots = ROBOTS[task.robot.name].variants
            episode = draw_start(task, spec.seed, options, robot_variant=robots)
            assert episode["robot_variant"] == "base"
            scene = task.scene(episode)
            placed = [(item.body.name, item.xy, item.rest.quaternion) for item in scene.objects]
            start = [placed, scene.base_xy, scene.drawers, task.instructions(episode)]
            starts.add(json.dumps([*seen, *start]))
    assert (len(surroundings), len(starts)) == COUNTS[name]


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_each_of_the_surroundings_is_a_task(task):
    assert get_task(task.name).name == task.name
    assert task.surroundings
    assert task.name == f"{get_task(task.name.split('@')[0]).name}@{task.surroundings}"
    assert list(tasks_of(task, PROTOCOL)) == [task]
    assert list(photographs(task)) == []
    [first, *_] = evaluation_episodes(task, "simpler", PROTOCOL, None, seed=0)
    episode = draw_start(task, 0, {})
    assert plan_of(first)
    usual = get_task(task.name.split("@")[0])
    assert task.instructions(episode) == usual.instructions(episode)
    json.dumps(task.bound().object_options(episode))
    name = CollectConfig(sim="simpler", task=task.name).dataset_name
    assert name.startswith(f"simpler_{usual.name}_{task.surroundings}_")
    with pytest.raises(UserError, match="surroundings of SIMPLER's"):
        make_env(SimulatorSpec(task=task.name))


def test_without_a_distractor_there_are_two_objects():
    task = get_task("move_near@no_distractor")
    assert {len(task.scene(draw_start(task, seed, {})).objects) for seed in range(9)} == {2}


def test_other_tasks_and_simulators_are_refused():
    with pytest.raises(UserError, match="no episodes of pick_object"):
        tasks_of(TASKS["pick_object"], PROTOCOL)
    with pytest.raises(UserError, match="needs sim=simpler"):
        resolve_protocol(PROTOCOL, "tabletop")
    with pytest.raises(UserError, match="did you mean open_drawer@darker_light"):
        get_task("open_drawer@darker")
    assert tasks_of(TASKS["pick_object"], "random") == [TASKS["pick_object"]]
    with pytest.raises(UserError, match="visual_matching recolours"):
        tasks_of(get_task("open_drawer@darker_light"), "visual_matching")
    with pytest.raises(UserError, match="paper has no episodes"):
        evaluation_episodes(get_task("open_drawer@darker_light"), "simpler", "paper", None, 0)


@pytest.mark.parametrize("protocol", ["grid", "quick", "random"])
def test_the_robot_has_its_own_colours_by_every_protocol(protocol):
    task = get_task("open_drawer@darker_light")
    assert colours_of(task) == ("base",)
    assert len(colours_of(TASKS["open_drawer"])) == 4
    for episode in evaluation_episodes(task, "simpler", protocol, None, seed=0):
        drawn = draw_start(task, episode.seed, episode.options, robot_variant=colours_of(task))
        assert drawn["robot_variant"] == "base"


def test_a_stage_that_is_missing_or_replaced_is_named(tmp_path):
    task, other = get_task("pick_coke_can@base"), get_task("open_drawer@cabinet_2")
    folders = [f"custom/models/{model}" for model in task.bound().models]
    files = [f"{folder}/{file}" for folder in folders for file in ("collision.obj", "textured.dae")]
    for file in (*files, "custom/mk_station2.urdf"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    for named in (task, other):
        stage = tmp_path / named.bound().stage_file
        with pytest.raises(UserError, match=rf"lacks .*{stage.name}, which {named.name} needs"):
            check_assets(named, tmp_path)
        stage.parent.mkdir(parents=True, exist_ok=True)
        stage.write_bytes(bytes(STAND_IN_BYTES - 1))
        with pytest.raises(UserError, match=rf"a stand-in for .*{stage.name}, which {named.name}"):
            check_assets(named, tmp_path)
        stage.write_bytes(bytes(STAND_IN_BYTES))
        check_assets(named, tmp_path)


def _report(task, successes):
    records = [
        EpisodeRecord("expert", task.name, task.variants[0], seed, success=seed < successes)
        for seed in range(10)
    ]
    return Report(task.name, "SIMPLER", PROTOCOL, 0, task.variants, {"expert": records})


def test_the_mean_is_over_all_surroundings():
    own = tasks_of(TASKS["close_drawer"], PROTOCOL)
    reports = [_report(task, successes) for successes, task in enumerate(own)]
    [average] = Summary(tuple(reports)).averages("expert")
    assert average.name == "close_drawer in its 7 surroundings"
    assert average.rate == pytest.approx(0.3)
    assert Summary(tuple(reports[1:])).averages("expert") == []
