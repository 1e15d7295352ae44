"""An evaluation counts the initial states it played, and refuses to play one again."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.spec import SimplerInstall, SimulatorSpec
from selfflow_robotics.envs.tasks.catalog import TASKS
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation import evaluate
from selfflow_robotics.evaluation.audit import Audit, InitialStates, repetitions
from selfflow_robotics.evaluation.home import home_spec
from selfflow_robotics.evaluation.ledger import EpisodeRecord, Ledger
from selfflow_robotics.evaluation.protocol import official_grid
from selfflow_robotics.evaluation.report import Report
from selfflow_robotics.evaluation.runner import play_missing
from selfflow_robotics.policies.random import RandomPolicy

ROOT = Path(__file__).parents[2]
FAKE = SimulatorSpec(simulator="tests.fakes:FakeEnv", image_size=(8, 10), path=str(ROOT))


class Looking(RandomPolicy):
    """Random actions of a policy that asks for images."""

    looks = True


def _record(seed, start="one", picture=None, **more):
    return EpisodeRecord(
        "network", "pick_coke_can", "standing", seed, start=start, picture=picture, **more
    )


def test_either_digest_makes_a_repetition():
    records = [
        _record(0, "a", "p"),
        _record(1, "b", "q"),
        _record(2, "a", "r"),  # the same state
        _record(3, "c", "q"),  # another state that looks the same
        _record(4, "d", None),
        _record(5, None, None, error="crash"),
        _record(6, None, None, error="crash"),
    ]
    assert InitialStates.of(records) == InitialStates(count=5, different=3)
    assert [(one.seed, two.seed) for one, two in repetitions(records)] == [(0, 2), (1, 3)]


@pytest.mark.parametrize("protocol", ["grid", "visual_matching", "paper", "quick"])
def test_the_first_repetition_of_a_grid_is_refused(protocol):
    audit = Audit(protocol)
    audit.add(_record(0, "a"))
    audit.add(_record(1, "b"))
    with pytest.raises(UserError, match=r"seed 1\) and standing \(seed 2\).*protocol=" + protocol):
        audit.add(_record(2, "b"))


def test_random_states_may_repeat_and_are_counted():
    audit = Audit("random")
    for seed in range(3):
        audit.add(_record(seed))
    report = Report(
        *("pick_coke_can", "SIMPLER", "random", 0, ("standing",)),
        {"network": [_record(seed) for seed in range(3)]},
    )
    assert report.to_json()["initial_states"] == {"count": 3, "different": 1}
    assert "1 of 3 initial states differ" in report.to_text()
    assert replace(report, protocol="grid").troubles()


@pytest.fixture
def played(tmp_path):
    """The records of a fake robot in these episodes."""

    def played(episodes, policy):
        ledger = Ledger.open(tmp_path / policy.name, {})
        with SimulatorClient(FAKE) as client:
            play_missing(
                *(ledger, policy, [client], episodes),
                replan_steps=6,
                num_videos=1,
                on_record=lambda record: None,
            )
        return ledger.of(policy.name, episodes)

    return played


def test_a_simulator_that_ignores_the_cell_is_found(played):
    cells = [[-0.2, 0.2], [-0.2, 0.2], [-0.3, 0.2]]
    episodes = [EpisodeSpec("pick_coke_can", "standing", 7, {"object_xy": c}) for c in cells[1:]]
    first, second = played(episodes, Looking(0, horizon=6))
    assert first.start != second.start
    # The fake camera does not show the object, as if all cells were the same one.
    assert first.picture == second.picture is not None
    assert InitialStates.of([first, second]).different == 1


def test_a_policy_that_does_not_look_has_no_picture(played):
    [record] = played([EpisodeSpec("pick_coke_can", "standing", 7)], RandomPolicy(0, horizon=6))
    assert record.video is not None
    assert record.picture is None


def test_an_evaluation_that_repeats_states_stops_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = runpy.run_path(str(ROOT / "eval" / "simpler.py"), run_name="imported")
    main = script["main"]
    arguments = ["policy=random", "baselines=[]", "videos=0", "processes=1", "protocol=quick"]
    cells = evaluate.evaluation_episodes

    def one_cell(*settings):
        """As a simulator that plays the same initial state for every episode."""
        same, *others = cells(*settings)
        return [same, *(replace(same, seed=other.seed) for other in others)]

    monkeypatch.setattr(evaluate, "evaluation_episodes", one_cell)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: pick_coke_can: episodes ")
    assert "protocol=quick" in last
    [folder] = (tmp_path / "runs" / "eval" / "random").iterdir()
    assert len((folder / "episodes.jsonl").read_text().splitlines()) == 2
    assert not (folder / "report.json").exists()
    with pytest.raises(SystemExit):  # and again, from the ledger
        main(arguments)
    assert len((folder / "episodes.jsonl").read_text().splitlines()) == 2
    monkeypatch.setattr(evaluate, "evaluation_episodes", cells)
    main([*arguments, "num_episodes=3", "output=good"])
    assert "3 of 3 initial states differ" in capsys.readouterr().out
    report = json.loads((tmp_path / "good" / "report.json").read_text())
    assert report["initial_states"] == {"count": 3, "different": 3}


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.grid()])
def test_the_grid_of_every_task_is_of_different_states_and_pictures(name):
    """On the tabletop, at the size that small networks look at."""
    records = []
    with SimulatorClient(home_spec("tabletop", name, SimplerInstall(), None, (64, 80))) as client:
        for episode in official_grid(TASKS[name], 0, recoloured=False):
            options = {"variant": episode.variant, **episode.options}
            client.submit("reset", task=name, seed=episode.seed, options=options, observe=True)
            reply = client.result()
            state = np.concatenate([np.ravel(v) for v in reply["info"]["state"].values()])
            shown = reply["observation"]["image"].tobytes(), reply["observation"]["instruction"]
            told = str([np.round(state, 5).tolist(), shown[1]])
            records.append(_record(episode.seed, told, str(shown)))
    assert InitialStates.of(records).different == len(TASKS[name].grid())
