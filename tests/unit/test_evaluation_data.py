"""Protocols, statistics, domains, videos."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from selfflow_robotics.envs.episodes import draw_start
from selfflow_robotics.envs.simpler.robots import ROBOTS
from selfflow_robotics.envs.spec import SimplerInstall
from selfflow_robotics.envs.tasks.catalog import get_task, get_tasks
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.comparing.paired import PairedCounts
from selfflow_robotics.evaluation.domain import check_robot, choose_simulator, out_of_domain
from selfflow_robotics.evaluation.home import home_spec
from selfflow_robotics.evaluation.protocol import evaluation_episodes, resolve_protocol
from selfflow_robotics.evaluation.statistics import wilson_interval
from selfflow_robotics.evaluation.video import write_grid, write_video

TASK = get_task("pick_coke_can")


def test_random_episodes_cycle_variants_with_different_seeds():
    episodes = evaluation_episodes(TASK, "tabletop", "auto", None, seed=0)
    assert len(episodes) == 100
    assert [episode.variant for episode in episodes[:4]] == [*TASK.variants, TASK.variants[0]]
    seeds = [episode.seed for episode in episodes]
    assert len(set(seeds)) == 100
    assert min(seeds) >= 0
    assert max(seeds) < 100_000
    assert seeds != [e.seed for e in evaluation_episodes(TASK, "tabletop", "auto", None, seed=1)]


def test_a_longer_evaluation_begins_with_the_shorter_one():
    for simulator in ("tabletop", "simpler"):
        short, long = (evaluation_episodes(TASK, simulator, "auto", n, 3) for n in (10, 20))
        assert long[:10] == short


def test_the_grid_of_simpler():
    episodes = evaluation_episodes(TASK, "simpler", "auto", None, seed=0)
    assert len(episodes) == 75
    positions = {tuple(episode.options["object_xy"]) for episode in episodes}
    assert len(positions) == 25
    assert {(-0.35, -0.02), (-0.12, 0.42), (-0.235, 0.2)} <= positions
    robots = ROBOTS[TASK.robot.name].variants
    assert {episode.options["robot_variant"] for episode in episodes} == set(robots)
    on_tabletop = evaluation_episodes(TASK, "tabletop", "grid", None, seed=0)
    assert "robot_variant" not in on_tabletop[0].options


def test_visual_matching_is_the_grid_for_every_robot():
    episodes = evaluation_episodes(TASK, "simpler", "visual_matching", None, seed=0)
    cells = {(e.variant, *e.options["object_xy"], e.options["robot_variant"]) for e in episodes}
    assert len(episodes) == len(cells) == 300
    with pytest.raises(UserError, match="needs sim=simpler"):
        resolve_protocol("visual_matching", "tabletop")
    with pytest.raises(UserError, match="too large"):
        evaluation_episodes(TASK, "simpler", "grid", 76, seed=0)


def test_visual_matching_of_all_tasks_is_864_different_legal_episodes():
    starts = set()
    for task in get_tasks("all"):
        for episode in evaluation_episodes(task, "simpler", "visual_matching", None, seed=0):
            options = {"variant": episode.variant, **episode.options}
            robots = ROBOTS[task.robot.name].variants
            start = draw_start(task, episode.seed, options, robot_variant=robots)
            assert start.items() >= options.items()
            starts.add((task.name, json.dumps(options, sort_keys=True)))
    assert len(starts) == (75 + 60 + 27 + 27 + 27) * 4 == 864


def test_widowx_has_24_episodes_a_task():
    for task in get_tasks("widowx"):
        for protocol in ("grid", "visual_matching"):
            episodes = evaluation_episodes(task, "simpler", protocol, None, seed=0)
            cells = {json.dumps([e.variant, e.options], sort_keys=True) for e in episodes}
            assert len(episodes) == len(cells) == 24
    assert not {task.name for task in get_tasks("all")} & {t.name for t in get_tasks("widowx")}


def test_short_protocols_are_different_cells_of_the_grid():
    cells = {str(episode) for episode in evaluation_episodes(TASK, "tabletop", "grid", 75, 0)}
    for protocol, count in (("paper", 30), ("quick", 10)):
        episodes = evaluation_episodes(TASK, "tabletop", protocol, None, seed=0)
        assert len(episodes) == len({str(episode) for episode in episodes} & cells) == count
    counts = {
        task.name: len(evaluation_episodes(task, "simpler", "paper", None, seed=0))
        for task in get_tasks("all")
    }
    assert counts["open_drawer"] + counts["close_drawer"] == 2 * 18
    assert counts["move_near"] == 2 * 10
    assert counts["place_apple_in_closed_top_drawer"] == 2 * 7
    assert len(counts) == 5
    with pytest.raises(UserError, match="open_top_drawer"):
        evaluation_episodes(get_task("open_top_drawer"), "simpler", "paper", None, seed=0)


def test_held_out_seeds_are_their_own():
    seeds = {e.seed for e in evaluation_episodes(TASK, "simpler", "held_out", 1000, seed=0)}
    assert len(seeds) == 1000
    assert min(seeds) >= 200_000
    assert max(seeds) < 300_000


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),
        (150, 300, 0.4437795, 0.5562205),
        (1, 1, 0.2065493, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(successes, count, low, high):
    assert wilson_interval(successes, count) == pytest.approx((low, high), abs=1e-6)
    if count:
        z, p = 1.959963985, successes / count
        center = (p + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * np.sqrt(p * (1 - p) / count + z * z / (4 * count**2))
        closed_form = (center - half, center + half)
        assert wilson_interval(successes, count) == pytest.approx(closed_form, abs=1e-6)


def test_wilson_covers_at_60_episodes():
    covered = []
    for p in np.linspace(0.02, 0.98, 25):
        counts = np.arange(61)
        log_choose = np.cumsum(np.log((61 - counts[1:]) / counts[1:]))
        log_pmf = np.append(0, log_choose) + counts * np.log(p) + (60 - counts) * np.log1p(-p)
        inside = [low <= p <= high for low, high in (wilson_interval(k, 60) for k in counts)]
        covered.append(np.exp(log_pmf)[inside].sum())
    assert min(covered) > 0.92
    assert np.mean(covered) == pytest.approx(0.95, abs=0.005)


def test_mcnemar_counts_only_where_the_two_differ():
    assert PairedCounts.of([1, 1, 0], [1, 1, 0]).p == 1.0
    assert PairedCounts.of([1] * 10, [0] * 10).p == pytest.approx(2 / 2**10)
    same = [True] * 50
    counts = PairedCounts.of([*same, 1, 1, 1, 0], [*same, 0, 0, 0, 1])
    assert counts.p == pytest.approx(0.625)
    with pytest.raises(ValueError, match="zip"):
        PairedCounts.of([True], [])


def _works():
    pass


def _missing():
    raise UserError("no checkout")


@pytest.mark.parametrize(
    ("asked", "data", "check", "simulator"),
    [
        ("auto", None, _works, "tabletop"),
        ("auto", {"simulator": "tabletop"}, _works, "tabletop"),
        ("auto", {"simulator": "simpler"}, _works, "simpler"),
        ("auto", {"simulator": "simpler"}, _missing, "tabletop"),
        ("auto", {"robot": "google robot"}, _works, "simpler"),
        ("auto", {"robot": "google robot"}, _missing, "tabletop"),
        ("tabletop", {"simulator": "simpler"}, _missing, "tabletop"),
        ("simpler", {"simulator": "tabletop"}, _works, "simpler"),
    ],
)
def test_the_simulator_follows_the_data(asked, data, check, simulator):
    assert choose_simulator(asked, data, check)[0] == simulator


def test_simpler_is_asked_for_but_missing():
    with pytest.raises(UserError, match="no checkout"):
        choose_simulator("simpler", None, _missing)


def test_a_stranger_is_marked():
    assert out_of_domain("tabletop", None) is None
    assert out_of_domain("tabletop", {"simulator": "tabletop"}) is None
    assert out_of_domain("simpler", {"dataset": "fractal20220817_data"}) is None
    assert "unknown origin" in out_of_domain("simpler", {"dataset": "mine"})
    assert out_of_domain("simpler", {"simulator": ["mine"]})
    assert "SIMPLER" in out_of_domain("tabletop", {"simulator": "simpler"})
    assert "real robot" in out_of_domain("tabletop", {"dataset": "fractal20220817_data"})


@pytest.mark.parametrize(
    ("data", "robot"),
    [
        ({"dataset": "fractal20220817_data"}, "google_robot"),
        ({"dataset": "bridge_dataset"}, "widowx"),
        ({"task": "move_near,drawer"}, "google_robot"),
        ({"task": "stack_cube"}, "widowx"),
        ({"task": "mine", "robot": "widowx"}, "widowx"),
        ({"robot": "a google robot"}, None),
        ({"robot": ["widowx"], "dataset": {}, "task": 3}, None),
        (None, None),
    ],
)
def test_another_robots_task_is_refused(data, robot):
    for task in (TASK, get_task("carrot_on_plate")):
        if robot in (None, task.robot.name):
            check_robot(task, data)
            continue
        with pytest.raises(UserError, match=f"robot {robot}, but {task.name} is a task") as caught:
            check_robot(task, data)
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match=f"robot {robot}"):
            home_spec("tabletop", task.name, SimplerInstall(), data, (64, 80))


def test_the_tabletop_renders_as_it_did_for_the_training_data():
    data = {"simulator": "tabletop", "renderer": "gl", "image_size": [128, 160]}

    def rendering(simulator, data, size, renderer=None):
        spec = home_spec(simulator, TASK.name, SimplerInstall(), data, size, renderer)
        return spec.image_size, spec.renderer

    assert rendering("tabletop", data, (64, 80)) == ((128, 160), "gl")
    assert rendering("tabletop", data, (64, 80), "ray") == ((128, 160), "ray")
    stranger = {"simulator": "simpler", "image_size": [256, 320]}
    assert rendering("tabletop", stranger, (32, 40)) == ((32, 40), "ray")
    assert rendering("tabletop", None, None) == ((64, 80), "ray")
    assert rendering("simpler", data, (64, 80))[0] == (256, 320)
    with pytest.raises(UserError, match="renderer=gl is for the tabletop, not simpler"):
        rendering("simpler", data, (64, 80), "gl")


def test_videos_and_strips_show_every_frame(tmp_path):
    frames = np.zeros((7, 63, 81, 3), np.uint8)
    frames[:, :, :40] = np.arange(7, dtype=np.uint8)[:, None, None, None] * 30
    write_video(tmp_path / "films" / "a.mp4", frames, fps=3)
    with av.open(str(tmp_path / "films" / "a.mp4")) as container:
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 3
    assert len(decoded) == 7
    assert decoded[0].shape == (252, 324, 3)
    left = [frame[100, 50].mean() for frame in decoded]
    np.testing.assert_allclose(left, np.arange(7) * 30, atol=8)
    write_grid(tmp_path / "a.png", frames[:6], columns=3)
    assert Image.open(tmp_path / "a.png").size == (3 * 3 * 81, 2 * 3 * 63)
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "b.mp4", frames[:0], fps=3)
