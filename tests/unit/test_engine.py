"""Playing episodes: order independence, limits, recording, faults, and what a policy may return."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.errors import UserError
from selfflow_robotics.policies.random import RandomPolicy
from selfflow_robotics.rollouts import engine
from selfflow_robotics.rollouts.engine import roll_out

ROOT = Path(__file__).parents[2]
FAKE = SimulatorSpec(simulator="tests.fakes:FakeEnv", image_size=(8, 10), path=str(ROOT))


@pytest.fixture(scope="module")
def clients():
    clients = [SimulatorClient(FAKE) for _ in range(3)]
    yield clients
    for client in clients:
        client.close()


class Scripted:
    """Returns what it is told to, and remembers what it was shown."""

    name = "scripted"
    privileged = False

    def __init__(self, chunk):
        self.chunk = chunk
        self.looks = []

    def begin(self, slot, episode):
        pass

    def act(self, slots, observations, infos):
        assert infos is None
        self.looks.append(len(slots))
        return [self.chunk for _ in slots]


def episodes(count, **options):
    return [EpisodeSpec("pick_coke_can", "standing", seed, options) for seed in range(count)]


def play(clients, specs, policy=None, **arguments):
    policy = policy or RandomPolicy(horizon=3)
    return sorted(roll_out(clients, specs, policy, **arguments), key=lambda result: result.index)


def test_results_do_not_depend_on_the_number_of_simulators(clients):
    specs = episodes(7)
    runs = [
        play(clients[:count], specs, max_steps=10, record="steps", replan_steps=2)
        for count in (1, 3)
    ]
    for one, three in zip(*runs, strict=True):
        assert (one.spec, one.steps, one.success) == (three.spec, three.steps, three.success)
        assert one.drawn == three.drawn
        assert_array_equal(one.trajectory.actions, three.trajectory.actions)
        for left, right in zip(
            one.trajectory.observations, three.trajectory.observations, strict=True
        ):
            assert_array_equal(left["image"], right["image"])


def test_every_step_of_the_horizon_runs_and_chunks_are_cut(clients):
    policy = Scripted(np.zeros((6, 7), np.float32))
    results = play(clients[:1], episodes(2), policy)
    assert [result.steps for result in results] == [80, 80]
    assert len(policy.looks) == 2 * 14  # 13 whole chunks and 2 steps of another
    assert [result.steps for result in play(clients, episodes(2), policy, max_steps=7)] == [7, 7]


def test_recording(clients):
    (plain,) = play(clients, episodes(1), max_steps=4)
    assert (plain.frames, plain.trajectory) == (None, None)
    (filmed,) = play(clients, episodes(1), max_steps=4, record="frames")
    assert [frame[0, 0, 0] for frame in filmed.frames] == [0, 1, 2, 3, 4]
    (full,) = play(clients, episodes(1), max_steps=4, record="steps")
    assert full.trajectory.actions.shape == (4, 7)
    assert [info["elapsed_steps"] for info in full.trajectory.infos] == [0, 1, 2, 3, 4]
    assert len(full.trajectory.observations) == 5


def test_nothing_is_rendered_for_a_policy_that_does_not_look(clients):
    class Blind(Scripted):
        looks = False

        def act(self, slots, observations, infos):
            assert observations == [{}] * len(slots)
            return super().act(slots, observations, infos)

    policy = Blind(np.zeros((2, 7), np.float32))
    assert [result.steps for result in play(clients, episodes(3), policy, max_steps=5)] == [5] * 3
    (filmed,) = play(clients, episodes(1), Scripted(policy.chunk), max_steps=5, record="frames")
    assert len(filmed.frames) == 6


class Replay:
    """Plays `recorded[seed]`, float32 [T, 7], one action at a time, then holds still."""

    name = "replay"
    privileged = False
    looks = False

    def __init__(self, recorded):
        self.recorded = recorded
        self.rest = {}

    def begin(self, slot, episode):
        self.rest[slot] = [*self.recorded[episode.seed]]

    def act(self, slots, observations, infos):
        chunks = []
        for slot in slots:
            action = self.rest[slot].pop(0) if self.rest[slot] else np.zeros(7, np.float32)
            chunks.append(action[None])
        return chunks


def test_recorded_actions_repeat_an_episode(clients):
    first = play(clients, episodes(3), max_steps=8, record="steps")
    replay = Replay({result.spec.seed: result.trajectory.actions for result in first})
    for one, two in zip(
        first, play(clients, episodes(3), replay, max_steps=9, record="steps"), strict=True
    ):
        assert_array_equal(one.trajectory.actions, two.trajectory.actions[:8])
        assert_array_equal(
            one.trajectory.infos[8]["state"]["tool_pose"],
            two.trajectory.infos[8]["state"]["tool_pose"],
        )
        assert not two.trajectory.actions[8].any()


@pytest.mark.parametrize("fault", ["crash", "hang", "raise"])
def test_a_fault_is_repeated_and_harms_nobody(clients, tmp_path, fault, monkeypatch):
    for client in clients:
        monkeypatch.setattr(client, "spec", replace(FAKE, timeout_s=3))
    healthy = play(clients, episodes(4), max_steps=5)
    specs = episodes(4)
    options = {"fault": fault, "at": 2, "only_before": str(tmp_path / "happened")}
    specs[1] = EpisodeSpec("pick_coke_can", "standing", 1, options)
    results = play(clients, specs, max_steps=5)
    assert [result.error for result in results] == [None] * 4
    assert [result.steps for result in results] == [5] * 4
    assert [result.drawn for result in results] == [result.drawn for result in healthy]


def test_a_lasting_fault_is_recorded_with_its_cause(clients):
    specs = episodes(3)
    specs[1] = EpisodeSpec("pick_coke_can", "standing", 1, {"fault": "raise", "at": 2})
    results = play(clients, specs, max_steps=5)
    assert [result.error is None for result in results] == [True, False, True]
    assert "the fake robot is broken" in results[1].error
    assert not results[1].success


def test_a_simulator_that_never_starts_stops_everything():
    with SimulatorClient(FAKE) as client:
        specs = episodes(1, fault="crash", at=0)
        with pytest.raises(UserError, match=r"failed to start: the process died \(signal 11\)"):
            play([client], specs)


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (np.zeros((0, 7)), "shape"),
        (np.zeros((2, 8)), "shape"),
        (np.zeros(7), "shape"),
    ],
)
def test_a_bad_policy_is_named(clients, chunk, words):
    with pytest.raises(UserError, match=f"policy 'scripted' returned .*{words}"):
        play(clients, episodes(2), Scripted(chunk))


class Diverging(RandomPolicy):
    """Returns NaN in the episode of one seed."""

    def begin(self, slot, episode):
        super().begin(slot, episode)
        self.diverges = getattr(self, "diverges", {}) | {slot: episode.seed == BAD_SEED}

    def act(self, slots, observations, infos):
        chunks = super().act(slots, observations, infos)
        return [
            np.full_like(chunk, np.nan) if self.diverges[slot] else chunk
            for slot, chunk in zip(slots, chunks, strict=True)
        ]


BAD_SEED = 33


def test_faults_in_a_tenth_of_the_episodes_leave_the_others_alone(clients, monkeypatch):
    healthy = play(clients, episodes(40), max_steps=4)
    monkeypatch.setattr(engine, "RETRIES", 0)
    for client in clients:
        monkeypatch.setattr(client, "spec", replace(FAKE, timeout_s=8))
    faults = {3: "crash", 14: "hang", 25: "raise"}
    specs = [
        replace(spec, options={"fault": faults[spec.seed], "at": 2})
        if spec.seed in faults
        else spec
        for spec in episodes(40)
    ]
    results = play(clients, specs, Diverging(horizon=3), max_steps=4)
    causes = {3: "signal 11", 14: "no answer", 25: "is broken", BAD_SEED: "not finite"}
    for result, expected in zip(results, healthy, strict=True):
        if cause := causes.get(result.index):
            assert cause in result.error
            assert not result.success
        else:
            assert (result.error, result.steps) == (None, expected.steps)
            assert result.drawn == expected.drawn


def test_an_endless_sequence_can_be_left(clients):
    def endless():
        seed = 0
        while True:
            yield EpisodeSpec("pick_coke_can", "standing", seed)
            seed += 1

    results = roll_out(clients, endless(), RandomPolicy(), max_steps=3)
    assert [next(results).steps for _ in range(5)] == [3] * 5
    results.close()
    assert [result.steps for result in play(clients, episodes(3), max_steps=2)] == [2] * 3


def test_random_policy_is_a_function_of_the_seed():
    def actions(slot, seed):
        policy = RandomPolicy(seed=5, horizon=40)
        policy.begin(slot, EpisodeSpec("pick_coke_can", "standing", seed))
        return policy.act([slot], [{}], None)[0]

    assert_array_equal(actions(0, 1), actions(3, 1))
    assert (actions(0, 1) != actions(0, 2)).any()
    assert actions(0, 1).dtype == np.float32
    assert np.abs(actions(0, 1)[:, 6]).min() == 1
