"""`selfflow_robotics.evaluate`, and an evaluation that stops when its question is answered."""

import shutil
from typing import Any

import numpy as np
import pytest

from selfflow_robotics import evaluate
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.evaluate import EpisodesConfig, evaluate_plan, make_plan
from selfflow_robotics.evaluation.pages.rebuild import rebuild
from selfflow_robotics.evaluation.verifying.verify import verify
from selfflow_robotics.policies.expert import ScriptedExpert

QUICK: dict[str, Any] = {"processes": 1, "videos": 0}


class Still:
    """Does not move, and counts its requests."""

    looks = False

    def __init__(self):
        self.requests = 0

    def begin(self, slot, episode):
        pass

    def act(self, slots, observations, infos):
        self.requests += 1
        return [np.zeros((6, 7), np.float32) for _ in slots]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def differences(folder):
    return [line for check in verify(folder) for line in check.differences]


def test_an_object_is_evaluated_and_the_call_resumes():
    first: Any = Still()
    second: Any = Still()
    report = evaluate(first, "close_drawer", num_episodes=2, **QUICK)
    assert (report.policy, report.task) == ("Still", "close_drawer")
    assert report.rate("Still").count == 2
    assert first.requests > 0
    assert evaluate(second, "close_drawer", num_episodes=2, **QUICK) == report
    assert second.requests == 0


def test_an_evaluation_stops_and_its_results_verify(folder):
    policy: Any = Still()
    report = evaluate(
        *(policy, "close_drawer"), output="out", stop="sequential", target=0.6, **QUICK
    )
    assert report.answer is not None
    assert (report.answer.verdict, report.answer.played, report.num_episodes) == ("below", 10, 10)
    assert differences(folder / "out") == []
    rebuild(folder / "out")
    assert differences(folder / "out") == []

    # The results of another policy must have all of the episodes, before one is played.
    question = {"stop": "sequential", "against": "out", **QUICK}
    for wrong in ({}, {"seed": 1}, {"num_episodes": 11}, {"task": "open_drawer"}):
        other: Any = Still()
        other.name = "other"
        with pytest.raises(UserError, match="against=out"):
            evaluate(other, **{"task": "close_drawer", "output": "other", **question, **wrong})
        assert other.requests == 0
        shutil.rmtree(folder / "other", ignore_errors=True)


def test_an_early_stop_without_some_variants_verifies(folder):
    config = EpisodesConfig(stop="sequential", target=0.5, num_episodes=30, **QUICK)
    plan = make_plan(config, get_task("close_drawer"), None)
    left_out: dict[str, str] = {"middle": "no mesh"}
    plan = plan._replace(
        left_out=left_out, episodes=[e for e in plan.episodes if e.variant not in left_out]
    )
    _, report = evaluate_plan(config, plan, [ScriptedExpert()], lambda _: folder / "out")
    assert report.answer is not None
    assert (report.answer.verdict, report.answer.played, report.answer.planned) == ("above", 10, 20)
    assert report.num_episodes == 15  # of the protocol's: every third is left out
    assert differences(folder / "out") == []
    assert report.to_json()["left_out"] == left_out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sim": "bogus"}, "sim"),
        ({"protocol": "bogus"}, "protocol"),
        ({"protocol": "variant_aggregation"}, "name one"),
        ({"stop": "sometimes"}, "stop"),
        ({"stop": "sequential"}, "target"),
        ({"stop": "sequential", "against": ""}, "no results"),
        ({"target": 0.5}, "stop=sequential"),
        ({"num_episodes": 0}, "num_episodes"),
        ({"replan_steps": 0}, "replan_steps"),
        ({"task": "all"}, "choose one"),
        ({"policy": "nowhere"}, "no checkpoint"),
        ({"policy": object()}, "begin"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        evaluate(**{"policy": Still(), **QUICK, **settings})
