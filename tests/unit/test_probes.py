"""Linear probes: planted signals are found, nothing leaks between episodes, frames are known."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation import protocol
from selfflow_robotics.evaluation.probing.frames import (
    FIRST_SEED,
    NUM_SEEDS,
    TARGETS,
    Frames,
    axis_angle,
    axis_tensor,
    contents,
    play_frames,
    probe_episodes,
)
from selfflow_robotics.evaluation.probing.probes import (
    Source,
    flatten,
    picture_features,
    probe,
    read_sources,
    score_source,
    split_by_episode,
)
from selfflow_robotics.evaluation.probing.report import to_markdown, to_text
from selfflow_robotics.evaluation.probing.ridge import (
    Ridge,
    median_and_interval,
    r2_and_interval,
    resample_weights,
)
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.rollouts import demonstrations
from selfflow_robotics.timesteps import Timesteps
from selfflow_robotics.training.checkpoint import save_checkpoint
from tests.networks import robot_bundle, robot_network, robot_record

ROOT = Path(__file__).parents[2]
TINY = RobotConfig(SiTConfig(width=24, depth=2, heads=3), image_size=(32, 48))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def planted(num_episodes: int = 40, frames: int = 8) -> tuple[Frames, np.ndarray]:
    """Frames whose content is a linear function of the features [n, 30] that come with them."""
    n = num_episodes * frames
    x = rng(1).normal(size=(n, 30))
    axis = axis_tensor(np.eye(3)[rng(2).integers(3, size=n)])
    x[:, 20:29] = axis + 0.01 * rng(3).normal(size=axis.shape)
    truth = {
        "object_position": 10 * x[:, :2] + 5,
        "object_axis": axis,
        "gripper": 0.1 * x[:, 2:3],
        "tool_position": x[:, 3:9] @ rng(4).normal(size=(6, 3)),
    }
    images = rng(5).integers(256, size=(n, 32, 48, 3), dtype=np.uint8)
    episode = np.repeat(np.arange(num_episodes), frames)
    return Frames(images, ["pick coke can"] * n, episode, truth), x


def scores(frames: Frames, x: np.ndarray) -> dict[str, dict]:
    parts = split_by_episode(frames.episode)
    weights = resample_weights(frames.episode[parts["test"]], 0)
    rows = score_source(Source(0.5, 1, x), frames.truth, parts, weights)
    return {row["target"]: row for row in rows}


@pytest.mark.parametrize("size", [(200, 12), (40, 90)])
def test_ridge_is_the_closed_form_with_many_rows_and_with_few(size):
    x, y = rng().normal(3, 2, size), rng(1).normal(size=(size[0], 2))
    x[:, 5] = 7.0  # says nothing
    scaled = (x - x.mean(0)) / np.where(x.std(0) == 0, 1, x.std(0))
    gram = scaled.T @ scaled / len(x) + 0.3 * np.eye(size[1])
    weights = np.linalg.solve(gram, scaled.T @ (y - y.mean(0)) / len(x))
    expected = scaled @ weights + y.mean(0)
    np.testing.assert_allclose(Ridge(x, y).predict(x, 0.3), expected, atol=1e-9)


def test_a_planted_linear_signal_is_recovered():
    found = scores(*planted())
    assert found["object_position"]["median_error"] < 0.02
    assert found["object_axis"]["median_error"] < 1
    assert all(row["r2"] > 0.99 for row in found.values())
    assert all(row["r2_interval"][0] <= row["r2"] <= row["r2_interval"][1] + 1e-12
               for row in found.values())  # fmt: skip


def test_features_that_say_nothing_score_nothing():
    frames, x = planted()
    found = scores(frames, rng(9).normal(size=x.shape))
    assert all(row["r2"] < 0.05 for row in found.values())


def test_the_split_leaks_nothing_between_episodes():
    frames, _ = planted()
    parts = split_by_episode(frames.episode)
    episodes = [set(frames.episode[rows]) for rows in parts.values()]
    assert [len(names) for names in episodes] == [24, 8, 8]
    assert sum(map(len, episodes)) == len(set.union(*episodes))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(frames.episode)))
    # Features that know which episode it is and nothing else: useless for an unseen episode.
    of_episode = rng(7).normal(size=(40, 2))[frames.episode]
    frames.truth["object_position"] = 10 * of_episode
    known = np.eye(40)[frames.episode]
    assert scores(frames, known)["object_position"]["r2"] < 0.05
    assert scores(frames, of_episode)["object_position"]["r2"] > 0.99


def test_too_few_episodes_are_refused():
    with pytest.raises(UserError, match="at least 5 episodes, got 4"):
        split_by_episode(np.arange(4))


def test_resamples_take_whole_episodes():
    episode = np.repeat([3, 5, 9], [2, 1, 4])
    weights = resample_weights(episode, 0)
    assert weights.shape == (1000, 7)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3:] == weights[:, 3:4]).all()
    assert (weights[:, 0] + weights[:, 2] + weights[:, 3] == 3).all()


def test_intervals_hold_the_value_and_are_wider_for_fewer_episodes():
    errors = rng().exponential(size=400)
    many = median_and_interval(errors, resample_weights(np.arange(400), 0))
    few = median_and_interval(errors, resample_weights(np.arange(400) // 40, 0))
    assert many[1][0] <= many[0] == np.median(errors) <= many[1][1]
    assert few[1][0] < few[1][1]
    true = rng(1).normal(size=(400, 2))
    weights = resample_weights(np.arange(400), 0)
    assert r2_and_interval(np.zeros_like(true), true, np.zeros(2), weights) == (0.0, [0.0, 0.0])
    value, (low, high) = r2_and_interval(0.5 * true, true, np.zeros(2), weights)
    assert value == pytest.approx(0.75)
    assert low == pytest.approx(0.75)
    assert high == pytest.approx(0.75)


def test_an_axis_has_no_front():
    a, b = np.array([[0.6, 0.8, 0.0]]), np.array([[0.8, -0.6, 0.0]])
    np.testing.assert_array_equal(axis_tensor(a), axis_tensor(-a))
    assert axis_angle(axis_tensor(a), axis_tensor(a))[0] == pytest.approx(0, abs=1e-5)
    assert axis_angle(axis_tensor(a), axis_tensor(b))[0] == pytest.approx(90)
    tilted = np.array([[np.cos(0.3), 0.0, np.sin(0.3)]])
    angle = axis_angle(axis_tensor(tilted), axis_tensor(np.array([[-1.0, 0.0, 0.0]])))
    assert angle[0] == pytest.approx(np.degrees(0.3))


def test_contents_are_in_centimetres_and_know_how_the_can_stands():
    upright = np.array([0.1, -0.2, 0.9, 0.5**0.5, 0.5**0.5, 0, 0])  # COKE_CAN.rests["standing"]
    state = {
        "object_pose": upright,
        "tool_pose": np.arange(7.0),
        "gripper": 0.25,
        "drawers": np.array([0.0, 0.2, 0.01]),
    }
    seen = contents(state, tuple(TARGETS))
    np.testing.assert_allclose(seen["object_position"], [10, -20])
    np.testing.assert_allclose(seen["object_axis"].reshape(3, 3), np.diag([0, 0, 1]), atol=1e-12)
    np.testing.assert_allclose(seen["tool_position"], [0, 100, 200])
    assert seen["gripper"] == [0.25]
    np.testing.assert_allclose(seen["drawers"], [0, 20, 1])
    assert seen.keys() == TARGETS.keys()


def test_episodes_are_ones_that_nobody_trains_or_is_evaluated_on():
    assert protocol.NUM_SEEDS <= FIRST_SEED
    assert FIRST_SEED + NUM_SEEDS <= demonstrations.FIRST_SEED
    task = get_task("pick_coke_can")
    episodes = probe_episodes(task, 9, 3)
    assert all(FIRST_SEED <= e.seed < FIRST_SEED + NUM_SEEDS for e in episodes)
    assert len({e.seed for e in episodes}) == 9
    assert {e.variant for e in episodes} == set(task.variants)
    assert probe_episodes(task, 4, 3) == episodes[:4]


def test_frames_of_played_episodes_show_what_they_say():
    spec = SimulatorSpec(simulator="tests.fakes:FakeEnv", image_size=(8, 12), path=str(ROOT))
    episodes = probe_episodes(get_task("pick_coke_can"), 3, 0)
    with SimulatorClient(spec) as one, SimulatorClient(spec) as two:
        frames = play_frames([one], episodes, (4, 6))
        again = play_frames([one, two], episodes, (4, 6))
    assert frames.images.shape[1:] == (4, 6, 3)
    assert set(frames.episode) == {0, 1, 2}
    assert (frames.images[:, 0, 0, 0] == np.tile(range(0, 41, 4), 3)).all()  # the step is painted
    painted = frames.images[:, 0, 0, 1:] / 2.55  # and so is the tool: |x|, |y| in cm
    np.testing.assert_allclose(painted, np.abs(frames.truth["tool_position"][:, :2]), atol=0.5)
    np.testing.assert_array_equal(frames.images, again.images)


@pytest.fixture(scope="module")
def network() -> Bundle:
    torch.manual_seed(0)
    model = Network(robot_network(TINY))
    with torch.no_grad():
        for block in model.backbone.blocks:
            block.adaLN_modulation[1].weight.normal_(std=0.1)
    return robot_bundle(TINY, model, ["image"])


@torch.no_grad()
def test_features_are_those_of_the_noised_path(network):
    model = network.network
    x = torch.randn(2, 6, 768, generator=torch.Generator().manual_seed(0))
    features = picture_features(network, x, 0.5, [0, 1, 2], ["a", "b"])
    tokens = model.embed(
        {"first_frame": network.slot("first_frame", x)}, Timesteps.constant(0.5, x), clean=False
    )
    torch.testing.assert_close(features[0], tokens.hidden)
    context = model.encode_context({}, ["a", "b"])
    hidden, _, _ = model.backbone(tokens, context.kept)
    torch.testing.assert_close(features[2], hidden)
    told_otherwise = picture_features(network, x, 0.0, [0, 2], ["a", "b"])
    assert torch.equal(told_otherwise[0], features[0])
    assert not torch.equal(told_otherwise[2], features[2])


def test_small_pictures_keep_every_token_and_large_ones_average_neighbours():
    tokens = torch.arange(2 * 6 * 4).float().reshape(2, 6, 4)
    assert torch.equal(flatten(tokens, (2, 3)), tokens.flatten(1))
    large = torch.randn(2, 12 * 4, 5, generator=torch.Generator().manual_seed(0))
    pooled = flatten(large, (12, 4)).reshape(2, 6, 4, 5)
    torch.testing.assert_close(pooled, large.reshape(2, 6, 2, 4, 5).mean(2))


def test_a_probe_has_every_row_and_the_same_numbers_twice(network):
    frames, _ = planted(6, 4)
    rows = probe(network, frames, [0, 2], [0.0, 0.5], 0)
    assert len(rows) == len(frames.truth) * (1 + 2 * (1 + 2))
    assert rows == probe(network, frames, [0, 2], [0.0, 0.5], 0)
    assert all(row["r2"] == 0 for row in rows if row["source"] == "mean")
    sources = list(read_sources(network, frames, [1], [0.0, 1.0], 0))
    assert [(s.t, s.layer, s.values.shape) for s in sources] == [
        (0.0, None, (24, 4608)),
        (0.0, 1, (24, 144)),
        (1.0, None, (24, 4608)),
        (1.0, 1, (24, 144)),
    ]
    pixels = frames.images.astype(np.float32) / 127.5 - 1
    assert np.sort(sources[0].values[3]) == pytest.approx(np.sort(pixels[3].ravel()))
    for text in (to_text(rows), to_markdown(rows, "Probes")):
        assert all(word in text for word in ("layer 2", "pixels", "mean", "t = 0.5", *frames.truth))


def test_the_command_measures_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = Network(robot_network(TINY))
    record = robot_record(TINY, ["image"], provenance={"simulator": "tabletop"})
    save_checkpoint(Path("runs/a/checkpoints"), 3, {"teacher": model.state_dict()}, record)
    main = runpy.run_path(str(ROOT / "eval/probe.py"), run_name="imported")["main"]
    arguments = ["experiment=debug", "--checkpoint", "runs/a", "num_episodes=5", "layers=[1]"]
    main(arguments)
    first = capsys.readouterr().out
    (results,) = Path("runs/a/eval").iterdir()
    assert f"written to {results}" in first
    report = json.loads((results / "probe.json").read_text())
    assert {row["layer"] for row in report["rows"]} == {None, 1}
    assert report["settings"]["timesteps"] == [0.5]
    assert "| layer 1 |" in (results / "table.md").read_text()
    main(arguments)
    again = capsys.readouterr().out
    assert again.startswith("already measured")
    assert again.splitlines()[1:] == first.splitlines()
    for wrong, line in (("layers=[3]", "from 0 to 2"), ("timesteps=[1.5]", "in [0, 1]")):
        with pytest.raises(SystemExit):
            main([*arguments, wrong])
        assert line in capsys.readouterr().err
