"""A clock that does not wait for the policy: what is executed meanwhile, and what it costs."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from selfflow_robotics import evaluate
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.evaluate import EpisodesConfig
from selfflow_robotics.evaluation.ledger import EpisodeRecord
from selfflow_robotics.evaluation.pages.rebuild import rebuild
from selfflow_robotics.evaluation.timing import Timing, latency_rows, results_by_latency
from selfflow_robotics.evaluation.verifying.verify import verify
from selfflow_robotics.policies.random import RandomPolicy
from selfflow_robotics.rollouts.clock import Clock, Timeline
from selfflow_robotics.rollouts.engine import roll_out

ROOT = Path(__file__).parents[2]
FAKE = SimulatorSpec(simulator="tests.fakes:FakeEnv", image_size=(8, 10), path=str(ROOT))


def chunk(look: int, horizon: int = 6) -> np.ndarray:
    """The answer to observation `look`: its actions begin with 10 look + 1, 10 look + 2, ..."""
    return np.repeat(10 * look + np.arange(1, horizon + 1.0)[:, None], 7, axis=1).astype(np.float32)


def looks(
    late: float, replan: int | None, horizon: int = 6, count: int = 3, left: int = 99
) -> tuple[list, Timeline]:
    """What is executed after each observation, if every answer is `late` control steps."""
    timeline, found = Timeline(), []
    for look in range(count):
        actions = timeline.actions(chunk(look, horizon), late / 3, 3.0, replan, left)
        left -= len(actions)
        found.append(actions[:, 0].tolist())
    return found, timeline


@pytest.mark.parametrize(
    ("late", "replan", "horizon", "expected", "held"),
    [
        (0, 3, 6, [[1, 2, 3], [11, 12, 13], [21, 22, 23]], 0),
        (1, 3, 6, [[0, 1, 2, 3], [4, 12, 13], [14, 22, 23]], 1),  # as with delay=1
        (2, 3, 6, [[0, 0, 1, 2, 3], [4, 5, 13], [14, 15, 23]], 2),  # as with delay=2
        (1, 6, 6, [[0, 1, 2, 3, 4, 5, 6], [0, 11, 12, 13, 14, 15, 16]], 2),
        (1, None, 2, [[0, 1, 2], [0, 11, 12]], 2),
        (3, 4, 6, [[0, 0, 0, 1, 2, 3, 4], [5, 6, 0, 13, 14], [15, 16, 0, 23, 24]], 5),
        (4, 2, 6, [[0, 0, 0, 0, 1, 2], [3, 4, 5, 6], [15, 16, 0, 0]], 6),
        (2, 1, 1, [[0, 0, 1], [0, 0, 11]], 4),
    ],
)
def test_the_old_chunk_goes_on_until_the_answer_and_then_the_robot_holds_still(
    late, replan, horizon, expected, held
):
    found, timeline = looks(late, replan, horizon, len(expected))
    assert found == expected
    assert timeline.held_steps == held


def test_fractions_of_a_step_add_up():
    found, timeline = looks(0.4, 2, 2, count=5)
    assert [len(one) for one in found] == [2, 2, 3, 2, 3]  # 0.4, 0.8, 1.2, 0.6, 1.0
    assert timeline.held_steps == 2
    assert [len(one) for one in looks(1 / 3, 1, 1, count=3)[0]] == [1, 1, 2]  # despite rounding


def test_an_episode_that_ends_first_loses_no_more_steps_than_it_has():
    found, timeline = looks(5, 2, count=1, left=3)
    assert found == [[0, 0, 0]]
    assert timeline.held_steps == 3


@pytest.fixture(scope="module")
def clients():
    clients = [SimulatorClient(FAKE) for _ in range(2)]
    yield clients
    for client in clients:
        client.close()


def play(clients, count, policy=None, **settings):
    specs = [EpisodeSpec("pick_coke_can", "standing", seed) for seed in range(count)]
    results = roll_out(clients, specs, policy or RandomPolicy(horizon=3), **settings)
    return sorted(results, key=lambda result: result.index)


def test_without_latency_nothing_changes(clients):
    plain, timed = (
        play(clients, 3, max_steps=9, record="steps", replan_steps=2, clock=clock)
        for clock in (None, Clock(0.0))
    )
    for one, two in zip(plain, timed, strict=True):
        assert_array_equal(one.trajectory.actions, two.trajectory.actions)
        assert one.timeline is None
        assert (two.timeline.held_steps, len(two.timeline.latencies_s)) == (0, 5)


def test_a_given_latency_is_the_same_for_any_number_of_simulators(clients):
    results = [
        play(clients[:count], 4, max_steps=10, record="steps", clock=Clock(0.5)) for count in (1, 2)
    ]
    for one, two in zip(*results, strict=True):
        assert_array_equal(one.trajectory.actions, two.trajectory.actions)
        assert one.timeline.held_steps == two.timeline.held_steps > 0


def test_a_measured_latency_is_that_of_the_policy_alone(clients):
    class Slow(RandomPolicy):
        def act(self, slots, observations, infos):
            assert len(slots) == 1
            time.sleep(0.05)
            return super().act(slots, observations, infos)

    for result in play(clients, 2, Slow(horizon=2), max_steps=6, clock=Clock()):
        assert min(result.timeline.latencies_s) >= 0.05


def record(latencies_ms: list[float] | None, held: int | None = 0, **more: Any) -> EpisodeRecord:
    return EpisodeRecord(
        *("a", "pick_coke_can", "standing", 0),
        **{"steps": 10, "latencies_ms": latencies_ms, "held_steps": held, **more},
    )


def test_the_report_s_line_has_percentiles_only_if_they_were_measured():
    timing = Timing.of([record([10.0, 20.0], 1), record([30.0], 2)], None, 3.0)
    assert timing is not None
    assert (timing.answers, timing.percentiles_ms["p50"]) == (3, 20.0)
    assert (timing.held_steps, timing.steps) == (3, 20)
    assert "p50 20.0 ms" in timing.text()
    given = Timing.of([record([150.0], 1)], 150.0, 3.0)
    assert given is not None
    assert "0.45 control steps" in given.text()
    assert Timing.of([record(None, None), record([5.0], error="crash")], None, 3.0) is None


class Steady:
    """Moves a little at a time; its chunks have four actions."""

    looks = False

    def begin(self, slot, episode):
        pass

    def act(self, slots, observations, infos):
        return [np.full((4, 7), 0.01, np.float32) for _ in slots]


def test_an_evaluation_reports_what_latency_costs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick: dict[str, Any] = {"processes": 1, "videos": 0, "num_episodes": 1, "replan_steps": 2}
    reports = [
        evaluate(Steady(), "close_drawer", **quick, **clock)  # type: ignore[arg-type]
        for clock in ({}, {"clock": "real", "latency_ms": 0}, {"clock": "real", "latency_ms": 900})
    ]
    assert reports[0].timing() is None
    held = [one.to_json()["timing"]["held_steps"] for one in reports[1:]]
    assert held == [0, 30]  # of 113: 2 at the start, then 0.7 of 2.7 each
    folders = sorted((tmp_path / "runs/eval/Steady").iterdir())
    assert len(folders) == 3
    for folder in folders:
        assert [line for check in verify(folder) for line in check.differences] == []
        assert 'id="latency"' in rebuild(folder).read_text()
    found = results_by_latency(folders[0])
    assert [one.latency_ms for one in found] == [0, 0, 900]
    assert [row[0] for row in latency_rows(found)] == ["latency", "0 ms", "0 ms", "900 ms"]
    # Measured, it plays one episode at a time and gives no promise.
    measured = evaluate(Steady(), "close_drawer", clock="real", **quick)  # type: ignore[arg-type]
    assert "depends on this computer" in measured.to_text()
    assert len(results_by_latency(folders[0])) == 4


@pytest.mark.parametrize(
    "settings",
    [
        {"clock": "fast"},
        {"latency_ms": 100},
        {"clock": "real", "latency_ms": -1},
        {"clock": "real", "latency_ms": 1e9},
        {"clock": "real", "latency_ms": float("nan")},
        {"clock": "real", "processes": 2},
    ],
)
def test_settings_that_do_not_fit_are_refused(settings):
    with pytest.raises(UserError):
        EpisodesConfig(**settings)
