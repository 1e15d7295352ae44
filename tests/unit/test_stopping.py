"""Sequential stopping: no false alarms however often one looks, and an answer when there is one."""

import io
from dataclasses import asdict

import numpy as np
import pytest

from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation import playing
from selfflow_robotics.evaluation.audit import Audit
from selfflow_robotics.evaluation.ledger import EpisodeRecord, Ledger
from selfflow_robotics.evaluation.protocol import random_episodes
from selfflow_robotics.evaluation.stopping import (
    SequentialTest,
    anytime_interval,
    looks,
    rate_e_value,
    recomputed,
)
from selfflow_robotics.policies.random import RandomPolicy
from selfflow_robotics.rng import numpy_generator


def _records(outcomes):
    return [
        EpisodeRecord("network", "pick_coke_can", "standing", seed, success=bool(outcome))
        for seed, outcome in enumerate(outcomes)
    ]


def test_looks_end_with_all_episodes():
    assert list(looks(35)) == [10, 20, 30, 35]
    assert list(looks(30)) == [10, 20, 30]
    assert list(looks(4)) == [4]


def test_the_e_value_is_a_likelihood_ratio():
    # Three successes: the uniform mixture gives them 1/4, a rate of 1/2 gives 1/8.
    assert rate_e_value(3, 3, 0.5) == pytest.approx(2)
    assert rate_e_value(0, 0, 0.5) == pytest.approx(1)
    # One of two in a given order: 1/6 against 1/4.
    assert rate_e_value(1, 2, 0.5) == pytest.approx(4 / 6)


@pytest.mark.parametrize("rate", [0.5, 0.85, 0.95])
def test_false_alarms_are_rare_and_intervals_hold_at_every_look(rate):
    draws = numpy_generator("sequential test", 0).random((1000, 200)) < rate
    counts = list(looks(200))
    successes = np.cumsum(draws, 1)[:, np.array(counts) - 1]
    alarms = [
        any(rate_e_value(int(s), n, rate) >= 20 for s, n in zip(row, counts, strict=True))
        for row in successes
    ]
    assert np.mean(alarms) <= 0.05
    low, high = anytime_interval(int(successes[0, -1]), 200)
    assert rate_e_value(int(successes[0, -1]), 200, low) == pytest.approx(20, rel=1e-6)
    assert rate_e_value(int(successes[0, -1]), 200, high) == pytest.approx(20, rel=1e-6)


def test_a_clear_difference_needs_few_episodes():
    draws = numpy_generator("sequential test", 1).random((200, 300)) < 0.6
    stopped = []
    for row in draws:
        total = np.cumsum(row)
        hits = [n for n in looks(300) if rate_e_value(int(total[n - 1]), n, 0.85) >= 20]
        stopped.append(hits[0] if hits else 300)
    assert np.mean(stopped) < 50


def test_the_interval_is_wider_than_a_fixed_one_and_has_the_edges():
    assert anytime_interval(0, 0) == (0.0, 1.0)
    assert anytime_interval(20, 20)[1] == 1.0
    assert anytime_interval(0, 20)[0] == 0.0
    low, high = anytime_interval(50, 100)
    assert low < 0.40
    assert high > 0.60


def test_the_verdict_says_on_which_side_of_the_target(tmp_path):
    test = SequentialTest.of(0.5, None)
    assert test.answer(tmp_path, _records([1] * 10), 100).verdict == "above"
    assert test.answer(tmp_path, _records([0] * 10), 100).verdict == "below"
    undecided = test.answer(tmp_path, _records([1, 0] * 5), 100)
    assert undecided.verdict == ""
    assert recomputed(asdict(undecided), _records([1, 0] * 5)) == undecided
    assert (undecided.played, undecided.planned) == (10, 100)
    assert "10 of 100" in undecided.text()


def test_an_episode_that_failed_to_run_is_no_outcome(tmp_path):
    crash = EpisodeRecord("network", "pick_coke_can", "standing", 99, error="crash")
    answer = SequentialTest.of(0.5, None).answer(tmp_path, [crash, *_records([1] * 4)], 100)
    assert answer.played == 4


def test_a_verdict_against_results_must_have_its_e_value(tmp_path):
    answer = SequentialTest.of(0.5, None).answer(tmp_path, _records([1] * 10), 100)
    written = {**asdict(answer), "target": None, "e": 3.0}
    assert recomputed(written, _records([1] * 10)).verdict == ""


@pytest.mark.parametrize(
    ("target", "against"), [(None, None), (0.5, "x"), (0.0, None), (1.0, None)]
)
def test_a_question_is_needed(target, against):
    with pytest.raises(UserError):
        SequentialTest.of(target, against)


def test_all_looks_share_one_progress_bar(tmp_path, monkeypatch):
    bars, played = [], []

    class Bar(playing.tqdm):
        def __init__(self, **settings):
            super().__init__(**settings, file=io.StringIO())
            bars.append(self)

        def set_postfix_str(self, text, refresh):
            self.text = text

    def play_missing(ledger, policy, clients, episodes, on_record, **_):
        for episode in ledger.missing(policy.name, episodes):
            played.append(episode)
            record = EpisodeRecord(policy.name, episode.task, episode.variant, episode.seed)
            ledger.add(record)
            on_record(record)

    monkeypatch.setattr(playing, "tqdm", Bar)
    monkeypatch.setattr(playing, "play_missing", play_missing)
    episodes = random_episodes(get_task("pick_coke_can"), 60, seed=0)
    ledger, policy = Ledger.open(tmp_path, {}), RandomPolicy()
    ledger.add(EpisodeRecord("random", episodes[0].task, episodes[0].variant, episodes[0].seed))
    table = playing.Playing(ledger, [], 6, 0)
    question = SequentialTest(0.3, None)
    found, answer = table.play_until(policy, episodes, Audit("random"), question)
    assert (len(found), answer.verdict, len(played)) == (20, "below", 19)
    [bar] = bars
    assert (bar.total, bar.n, bar.initial) == (60, 20, 1)
    assert bar.text == f"0 of 20 succeed, e = {answer.e:.3g} of 20"
