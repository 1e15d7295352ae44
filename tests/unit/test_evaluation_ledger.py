"""What is on disk survives crashes and never mixes evaluations; what is left is played."""

import errno
import json
import os
from pathlib import Path

import pytest

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.ledger import EpisodeRecord, Ledger
from selfflow_robotics.evaluation.runner import play_missing
from selfflow_robotics.policies.expert import ScriptedExpert
from selfflow_robotics.policies.random import RandomPolicy

ROOT = Path(__file__).parents[2]
FAKE = SimulatorSpec(simulator="tests.fakes:FakeEnv", image_size=(8, 10), path=str(ROOT))
FINGERPRINT = {"checkpoint": "a1", "simulator": {"name": "fake", "size": (8, 10)}}


def _episodes(count):
    return [
        EpisodeSpec("pick_coke_can", "standing", s, {"object_xy": [-0.2, 0.2]})
        for s in range(count)
    ]


def _record(seed, policy="random", **more):
    options = {"object_xy": [-0.2, 0.2]}
    return EpisodeRecord(policy, "pick_coke_can", "standing", seed, options, **more)


def test_a_ledger_goes_on_where_it_was(tmp_path):
    ledger = Ledger.open(tmp_path / "new", FINGERPRINT)
    ledger.add(_record(0, success=True, steps=80, wall_s=1.5))
    ledger.add(_record(2))
    again = Ledger.open(tmp_path / "new", FINGERPRINT)
    assert again.records == ledger.records
    assert [e.seed for e in again.missing("random", _episodes(4))] == [1, 3]
    assert [e.seed for e in again.missing("expert", _episodes(4))] == [0, 1, 2, 3]
    assert [r.seed for r in again.of("random", _episodes(4))] == [0, 2]


def test_a_torn_last_line_is_dropped_and_its_episode_played_again(tmp_path):
    ledger = Ledger.open(tmp_path, FINGERPRINT)
    for seed in range(3):
        ledger.add(_record(seed))
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    again = Ledger.open(tmp_path, FINGERPRINT)
    assert [e.seed for e in again.missing("random", _episodes(3))] == [2]
    again.add(_record(2, success=True))
    assert len(Ledger.open(tmp_path, FINGERPRINT).records) == 3


def test_a_full_disk_is_one_line_and_leaves_no_half_line(tmp_path, monkeypatch):
    ledger = Ledger.open(tmp_path, FINGERPRINT)
    ledger.add(_record(0))
    before = (tmp_path / "episodes.jsonl").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        ledger.add(_record(1))
    assert (tmp_path / "episodes.jsonl").read_bytes() == before
    monkeypatch.undo()
    ledger.add(_record(1))
    assert len(Ledger.open(tmp_path, FINGERPRINT).records) == 2


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"policy": "p", "task": "t", "variant": "v", "seed": "1"}', "[]", "null"],
    ids=["nested", "seed is text", "list", "null"],
)
def test_a_crafted_line_is_named(tmp_path, line):
    Ledger.open(tmp_path, FINGERPRINT)
    (tmp_path / "episodes.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match="line 1 is damaged"):
        Ledger.open(tmp_path, FINGERPRINT)


def test_a_film_that_cannot_be_written_costs_no_episode(tmp_path, clients, caplog):
    ledger = Ledger.open(tmp_path, FINGERPRINT)
    (tmp_path / "videos").write_text("a file where the folder should be")
    _play(ledger, RandomPolicy(horizon=6), clients, _episodes(2), num_videos=1)
    assert [(r.error, r.video) for r in ledger.records] == [(None, None)] * 2
    assert "could not write video" in caplog.text


def test_an_error_is_tried_again_and_replaced(tmp_path):
    ledger = Ledger.open(tmp_path, FINGERPRINT)
    ledger.add(_record(0, error="crash"))
    ledger = Ledger.open(tmp_path, FINGERPRINT)
    assert len(ledger.missing("random", _episodes(1))) == 1
    ledger.add(_record(0, success=True))
    [record] = Ledger.open(tmp_path, FINGERPRINT).records
    assert record.success


def test_another_fingerprint_is_refused_by_name(tmp_path):
    Ledger.open(tmp_path, FINGERPRINT)
    with pytest.raises(UserError, match="evaluation with a different checkpoint; choose"):
        Ledger.open(tmp_path, {**FINGERPRINT, "checkpoint": "b2"})
    with pytest.raises(UserError, match="checkpoint and seed;"):
        Ledger.open(tmp_path, {**FINGERPRINT, "checkpoint": "b2", "seed": 1})


def test_damage_and_places_that_cannot_be_written_are_named(tmp_path):
    ledger = Ledger.open(tmp_path / "a", FINGERPRINT)
    ledger.add(_record(0))
    path = tmp_path / "a" / "episodes.jsonl"
    path.write_text("{ nonsense }\n" + path.read_text())
    with pytest.raises(UserError, match=r"episodes.jsonl line 1 is damaged"):
        Ledger.open(tmp_path / "a", FINGERPRINT)
    (tmp_path / "a" / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match=r"evaluation.json is damaged"):
        Ledger.open(tmp_path / "a", FINGERPRINT)
    with pytest.raises(UserError, match="cannot write the evaluation to"):
        Ledger.open(path / "below_a_file", FINGERPRINT)


@pytest.fixture
def clients():
    clients = [SimulatorClient(FAKE) for _ in range(2)]
    yield clients
    for client in clients:
        client.close()


def _play(ledger, policy, clients, episodes, num_videos=0):
    played = []
    play_missing(
        ledger,
        policy,
        clients,
        episodes,
        replan_steps=6,
        num_videos=num_videos,
        on_record=played.append,
    )
    return played


def test_only_what_is_missing_is_played_and_the_first_are_filmed(tmp_path, clients):
    ledger = Ledger.open(tmp_path, FINGERPRINT)
    ledger.add(_record(1, policy="expert", success=True))
    played = _play(ledger, ScriptedExpert(), clients, _episodes(4), num_videos=2)
    assert sorted(record.seed for record in played) == [0, 2, 3]
    assert [record.seed for record in played if record.video] == [0]
    [film] = (tmp_path / "videos").iterdir()
    assert played[0].video == f"videos/{film.name}"
    assert _play(ledger, ScriptedExpert(), clients, _episodes(4)) == []


def test_every_variant_is_filmed(tmp_path, clients):
    ledger = Ledger.open(tmp_path, FINGERPRINT)
    variants = ["standing", "standing", "standing", "vertical", "vertical"]
    episodes = [EpisodeSpec("pick_coke_can", v, seed) for seed, v in enumerate(variants)]
    played = _play(ledger, RandomPolicy(0), clients, episodes, num_videos=3)
    assert sorted(record.seed for record in played if record.video) == [0, 1, 3]


def test_the_outcome_does_not_depend_on_interruption(tmp_path, clients):
    whole = Ledger.open(tmp_path / "whole", FINGERPRINT)
    _play(whole, RandomPolicy(0), clients, _episodes(4))
    parts = Ledger.open(tmp_path / "parts", FINGERPRINT)
    with pytest.raises(KeyboardInterrupt):
        play_missing(
            parts,
            RandomPolicy(0),
            clients,
            _episodes(4),
            replan_steps=6,
            num_videos=0,
            on_record=_interrupt,
        )
    assert len(parts.records) == 1
    for client in clients:
        client.restart()
    parts = Ledger.open(tmp_path / "parts", FINGERPRINT)
    _play(parts, RandomPolicy(0), clients, _episodes(4))
    outcomes = [
        [
            (r.seed, r.success, r.success_at_any_step, r.steps)
            for r in ledger.of("random", _episodes(4))
        ]
        for ledger in (whole, parts)
    ]
    assert outcomes[0] == outcomes[1]


def _interrupt(record):
    raise KeyboardInterrupt


def test_a_broken_episode_is_an_error_and_the_others_go_on(tmp_path, clients):
    ledger = Ledger.open(tmp_path, FINGERPRINT)
    broken = EpisodeSpec("pick_coke_can", "standing", 9, {"fault": "raise", "at": 3})
    _play(ledger, RandomPolicy(0), clients, [*_episodes(2), broken])
    [error] = [record for record in ledger.records if record.error]
    assert error.seed == 9
    assert "the fake robot is broken" in error.error
    assert len(ledger.records) == 3
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert [json.loads(line)["policy"] for line in lines] == ["random"] * 3
