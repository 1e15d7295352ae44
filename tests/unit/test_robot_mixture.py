"""Training on several data sets: shares, statistics, and what is recorded and refused."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.lerobot_sets import write_lerobot
from selfflow_robotics.cli.app import compose
from selfflow_robotics.cli.robot_input import one_for_each, open_indices
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.robot_data import open_robot_data
from selfflow_robotics.data.robot_mixture import check_alike
from selfflow_robotics.data.robot_windows import RobotData, Source
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.domain import robot_of
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.robot.normalize import NormStats
from selfflow_robotics.rollouts.demonstrations import CollectConfig
from tests.rlds_sets import make_steps, write_set

ROOT = Path(__file__).parents[2]
RT1 = runpy.run_path(str(ROOT / "finetune" / "rt1.py"))
FinetuneConfig, open_data = RT1["FinetuneConfig"], RT1["open_data"]
MODEL = RobotConfig(image_size=(16, 24), patch=8, later_frames=2)


def settings(**options):
    given = {"name": "mix", "model": MODEL, "play_share": 0, "validation": 0.2, "policy_batch": 10}
    return FinetuneConfig(**(given | options))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """RLDS, and LeRobot with displacements ten times as large."""
    root = tmp_path_factory.mktemp("sets")
    one = write_set(root / "a", [make_steps(n, 9 + n, "pick coke can") for n in range(5)])
    other = [make_steps(10 + n, 5 + n, "open drawer") for n in range(5)]
    for step in (step for steps in other for step in steps):
        step["world_vector"] = 10 * step["world_vector"]
    index = RldsIndex.open(write_set(root / "b", other))
    return one, write_lerobot(root / "b_lerobot", index)


@pytest.fixture(scope="module")
def indices(folders):
    return [open_robot_data(folder) for folder in folders]


def mixed(indices, **options):
    config = settings(data=tuple(map(str, range(len(indices)))), **options)
    return RobotData([Source(index) for index in indices], None, config)


def test_batches_are_of_both_in_their_shares(indices):
    data = mixed(indices, data_weights=(0.7, 0.3))
    words = [text for step in range(64) for text in data.batch_at(step)[2].instruction]
    assert words.count("pick coke can") == 0.7 * 640
    assert words.count("open drawer") == 0.3 * 640
    assert data.weights == [0.7, 0.3]


def test_without_weights_every_window_is_as_likely(indices):
    data = mixed(indices)
    steps = np.array([9 + 10 + 11 + 12, 5 + 6 + 7 + 8])  # one of five episodes is held out
    np.testing.assert_allclose(data.weights, steps / steps.sum())
    assert len(data.held_out) == 13 + 9
    batches = list(data.held_out_batches())
    assert {text for batch in batches for text in batch.instruction} == {
        "pick coke can",
        "open drawer",
    }
    assert len(data.held_out_pictures()) == 13 + 9


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_statistics_are_those_of_what_is_drawn(indices, share):
    """Against the quantiles of a large sample."""
    data = mixed(indices, data_weights=(1 - share, share), validation=0)
    generator = np.random.default_rng(0)
    counts = generator.multinomial(200_000, [1 - share, share])
    sample = np.concatenate(
        [
            i.actions[generator.integers(i.num_frames, size=n)]
            for i, n in zip(indices, counts, strict=True)
        ]
    )
    drawn = NormStats.compute(sample)
    for key in ("q01", "q99", "mean", "std"):
        one, other = getattr(data.stats, key), getattr(drawn, key)
        np.testing.assert_allclose(one, other, atol=0.05 * drawn.std.max(), err_msg=key)
    assert data.stats.num_transitions == sum(index.num_frames for index in indices)
    assert data.stats.num_episodes == 10


def test_one_data_set_is_as_before(indices):
    data = mixed(indices[:1])
    assert data.stats.to_json() == NormStats.compute(indices[0].actions_of(range(4)), 4).to_json()
    assert data.fingerprints == {"data": indices[0].fingerprint}
    assert indices[0].provenance.items() <= data.provenance.items()


def test_a_checkpoint_records_the_data_sets_and_weights(indices):
    data = mixed(indices, data_weights=(3, 1))
    assert data.fingerprints == {
        "data": indices[0].fingerprint,
        "data[1]": indices[1].fingerprint,
    }
    told = data.provenance["data_sets"]
    assert [(one["dataset"], one["weight"]) for one in told] == [("toy", 0.75), ("b", 0.25)]
    assert data.provenance["action_statistics"] == "pooled by weight"
    assert robot_of(data.provenance) == "google_robot"


def test_other_robots_and_rates_are_refused(indices, tmp_path):
    bridge = write_set(tmp_path / "w", [make_steps(0, 4), make_steps(1, 5)], layout="bridge")
    with pytest.raises(UserError, match="two robots"):
        mixed([indices[0], open_robot_data(bridge)])
    rates = [SimpleNamespace(layout=None, provenance={"control_hz": rate}) for rate in (3.0, 5.0)]
    with pytest.raises(UserError, match="control rates"):
        check_alike(rates)  # pyright: ignore[reportArgumentType]


def test_a_data_set_under_two_paths_is_refused(folders, tmp_path):
    (tmp_path / "link").symlink_to(folders[0].parent)
    twice = [open_robot_data(path) for path in (folders[0], tmp_path / "link" / folders[0].name)]
    with pytest.raises(UserError, match="the same episodes"):
        mixed(twice)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "weights",
    [(1.0,), (0.5, 0.5, 0.1), (1.0, 0.0), (1.0, -1.0), (NAN, 1.0), (1.0, NAN), (1.0, INF)],
)
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(UserError, match="data_weights"):
        settings(data=("a", "b"), data_weights=weights)


def test_a_mixture_of_nothing_is_refused(folders, tmp_path):
    with pytest.raises(UserError, match="data"):
        settings(data=())
    for data in ("", (str(folders[0]), "")):
        with pytest.raises(UserError, match="empty name"):
            open_indices(data, "train", CollectConfig(root=str(tmp_path / "unused")))
    assert not (tmp_path / "unused").exists()
    assert one_for_each("", 1, "latents") == [""]  # refused when it is opened


def test_play_with_an_empty_name_is_refused(folders):
    config = settings(
        data=str(folders[0]), play_data="", play_share=0.5, roles={"world_model": 1.0}
    )
    with pytest.raises(UserError, match="empty name"):
        open_data(config)


def test_settings_take_one_data_set_or_several(folders):
    def data_of(*words):
        (config,) = compose("finetune", FinetuneConfig, words)
        return config.data

    assert data_of() is None
    assert data_of("data=one") == "one"
    assert data_of("data=[one,two]") == ("one", "two")
    for wrong in ("data=[one,3]", "data=7", "data={a: b}"):
        with pytest.raises(UserError, match="data: "):
            data_of(wrong)
    both = tuple(map(str, folders))
    collect = CollectConfig()
    assert [i.num_episodes for i in open_indices(both, "train[1:]", collect)] == [4, 4]
    opened = open_indices(both, ("train", "train[:2]"), collect)
    assert [i.num_episodes for i in opened] == [5, 2]
    with pytest.raises(UserError, match="one for each"):
        open_indices(both, ("train",), collect)
    assert one_for_each(None, 2, "latents") == [None, None]
    with pytest.raises(UserError, match="latents"):
        one_for_each("one", 2, "latents")
