"""Playing the world model: keys, endless imagination, sessions, recordings, and the web server."""

import http.client
import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.imagination import Imagination, longest
from selfflow_robotics.inference.imagine import imagine
from selfflow_robotics.serving.play.controls import MOTIONS, MOVE_M, SLOW, action_of, held_keys
from selfflow_robotics.serving.play.recording import FIRST_SEED
from tests.playing import CONFIG, SIZE, Tab, game, new_session, recording_in, tiny_bundle

websockets = pytest.importorskip("websockets", reason="the extra 'serve' is not installed")

TOKEN = "a-secret-of-some-length"


def test_keys_move_along_the_robots_axes_and_cancel_each_other():
    assert_allclose(action_of(["ArrowUp", "ArrowRight"], False), [MOVE_M, -MOVE_M, 0, 0, 0, 0, -1])
    assert_allclose(action_of(["ArrowUp"], True, is_slow=True)[[0, 6]], [SLOW * MOVE_M, 1])
    assert_allclose(action_of(MOTIONS, False), [0, 0, 0, 0, 0, 0, -1])
    assert {(axis, direction) for _, axis, direction in MOTIONS.values()} == {
        (axis, direction) for axis in range(6) for direction in (-1, 1)
    }


@pytest.mark.parametrize("value", [None, "w", ["x"], [1], ["w"] * 50, [["w"]]])
def test_what_is_no_list_of_keys_is_refused(value):
    with pytest.raises(UserError):
        held_keys(value)


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle()


def actions(count):
    return np.random.default_rng(1).normal(0, 0.03, (count, 7)).astype(np.float32)


def test_imagination_goes_on_from_its_own_frames(bundle):
    first = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    told, imagination = actions(5), Imagination(bundle, num_steps=2)
    imagination.start(first, "pick")
    frames = [imagination.step(told[t : t + 1]) for t in range(5)]
    assert imagination.window == longest(bundle) == 3
    assert imagination.steps == 5

    def direct(frame, told):
        return imagine(bundle, frame[None], told[None], ["pick"], num_steps=2)[0, -1]

    for t in range(3):  # from the real frame
        assert_array_equal(frames[t], direct(first, told[: t + 1]))
    assert_array_equal(frames[3], direct(frames[2], told[3:4]))
    assert_array_equal(frames[4], direct(frames[2], told[3:5]))
    imagination.start(first, "pick")
    assert_array_equal(imagination.step(told[:1]), frames[0])


def test_imagination_with_a_stride_takes_several_actions_a_step():
    config = replace(CONFIG, frame_stride=2, action_horizon=6)
    strided = replace(tiny_bundle(config=config), frame_stride=2)
    imagination = Imagination(strided, window=2)
    imagination.start(np.zeros((*SIZE, 3), np.uint8), "pick")
    assert imagination.control_steps == 2
    for _ in range(3):
        assert imagination.step(actions(2)).shape == (*SIZE, 3)


def test_what_imagination_refuses(bundle):
    for window in (0, 4):
        with pytest.raises(UserError):
            Imagination(bundle, window=window)
    with pytest.raises(UserError, match="world_model"):
        Imagination(tiny_bundle("policy"))


def test_a_session_is_recorded_and_read_back(bundle, tmp_path):
    with recording_in(tmp_path) as recording, new_session(bundle, recording) as session:
        first = session.reset("pick_coke_can", FIRST_SEED + 7)
        assert_array_equal(first.imagined, first.truth)
        assert (first.told["imagined_steps"], first.told["psnr_db"]) == (0, None)
        session.act(["ArrowUp"])
        session.act(["w", "a"], toggle=True)
        view = session.act([])
        assert view.told["gripper"] == "closed"
        assert (view.told["step"], view.told["imagined_steps"]) == (3, 3)
        assert view.truth[0, 0, 0] == 3  # the fake simulator's image counts steps
        assert session.resync().told["imagined_steps"] == 0
        session.act_as_policy()
        session.reset("pick_coke_can", 5)  # for evaluation
        session.act(["s"])
        assert not session.act(["s"]).told["is_recorded"]
        session.reset("pick_coke_can", FIRST_SEED)
        session.act(["s"])  # one step is no episode
    index = RldsIndex.open(recording.path)
    assert (index.num_episodes, index.num_frames) == (1, 4)
    assert index.provenance["recording"] == {"mode": "human play"}
    assert_allclose(index.actions[:3, 0], [MOVE_M, 0, 0], atol=1e-6)
    assert_allclose(index.actions[:3, 2], [0, MOVE_M, 0], atol=1e-6)
    assert index.actions[:3, 6].tolist() == [1, 0, 0]  # 1: open
    [episode] = json.loads((recording.path / "metadata.json").read_text())["episodes"]
    assert (episode["seed"], episode["task"]) == (FIRST_SEED + 7, "pick_coke_can")


def test_each_run_records_a_version_and_an_unfinished_one_goes_on(bundle, tmp_path):
    def episode(recording):
        with new_session(bundle, recording) as session:
            session.reset("pick_coke_can", FIRST_SEED)
            session.act([])
            session.act([])

    with recording_in(tmp_path) as recording:
        episode(recording)
    assert recording.path.name == "0.1.0"
    killed = recording_in(tmp_path)
    episode(killed)
    killed._writer.close()
    with recording_in(tmp_path) as recording:
        assert (recording.path.name, recording.episodes) == ("0.2.0", 1)
    with recording_in(tmp_path / "other") as recording:
        pass
    assert not recording.path.parent.exists()  # no empty folders


def test_a_long_episode_ends_and_stays_recorded(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("selfflow_robotics.serving.play.session.MOST_STEPS", 2)
    with new_session(bundle, recording_in(tmp_path)) as session:
        session.reset("pick_coke_can", FIRST_SEED)
        session.act([])
        session.act([])
        with pytest.raises(UserError):
            session.act([])
        session.end()
        assert session.recording.episodes == 1


def test_an_episode_that_cannot_be_written_is_kept(bundle, tmp_path, monkeypatch):
    with new_session(bundle, recording_in(tmp_path)) as session:
        session.reset("pick_coke_can", FIRST_SEED)
        session.act([])
        session.act([])

        def full(*_):
            raise UserError("disk full")

        with monkeypatch.context() as patch:
            patch.setattr(session.recording, "write", full)
            with pytest.raises(UserError, match="disk full"):
                session.reset("pick_coke_can", FIRST_SEED + 1)
        with pytest.raises(UserError):
            session.act([])  # no episode is running
        session.reset("pick_coke_can", FIRST_SEED + 1)
        assert session.recording.episodes == 1


@pytest.fixture(scope="module")
def port(bundle):
    with game(bundle=bundle, max_tabs=16) as port:
        yield port


def get(port, path="/", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, dict(answer.headers), answer.read().decode()


def test_the_page_comes_from_here_alone(port):
    status, headers, text = get(port)
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert "connect-src 'self'" in headers["Content-Security-Policy"]
    assert "://" not in text  # nothing from outside
    assert get(port, "/healthz")[0] == 200
    assert get(port, "/other")[0] == 404
    assert get(port, Host="evil.example")[0] == 403  # a name that was made to point here


def test_other_sites_pages_do_not_connect(port):
    with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
        Tab(port, origin="http://evil.example")
    with Tab(port, origin=f"http://127.0.0.1:{port}") as tab:
        assert tab.receive()[0]["type"] == "hello"


def test_a_token_is_a_browsers_password(bundle):
    with game(bundle=bundle, token=TOKEN) as port:
        status, headers, _ = get(port)
        assert status == 401
        assert headers["WWW-Authenticate"].startswith("Basic")
        with pytest.raises(websockets.exceptions.InvalidStatus, match="401"):
            Tab(port)
        with Tab(port, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as tab:
            assert tab.receive()[0]["type"] == "hello"


def test_a_tab_acts_and_two_tabs_have_worlds_of_their_own(port):
    with Tab(port) as one, Tab(port) as other:
        hello, _ = one.receive()
        assert hello["tasks"] == ["pick_coke_can", "pick_standing_coke_can"]
        other.receive()
        told, frames = one.begin()
        assert frames.shape == (2, *SIZE, 3)
        assert_array_equal(frames[0], frames[1])
        other.begin("pick_standing_coke_can", FIRST_SEED + 1)
        assert one.act("ArrowUp")[0]["step"] == 1
        told, frames = one.act("ArrowUp", toggle=True)
        assert (told["step"], told["gripper"]) == (2, "closed")
        assert (frames[0] != frames[1]).any()
        told, _ = other.act("w")
        assert (told["step"], told["gripper"], told["seed"]) == (1, "open", FIRST_SEED + 1)
        assert one.ask(type="resync")[0]["imagined_steps"] == 0
        assert one.ask(type="policy")[0]["step"] == 3
        while not one.futures:
            one.futures.append(one.receive())
        told, frames = one.futures[-1]
        assert frames.shape == (3, *SIZE, 3)


BAD_MESSAGES = [
    {"type": "reset", "task": "no_such_task", "seed": 1},
    {"type": "reset", "task": "pick_coke_can", "seed": -1},
    {"type": "reset", "task": "pick_coke_can", "seed": 1.5},
    {"type": "reset"},
    {"type": "act", "keys": ["x"]},
    {"type": "act", "keys": 3},
    {"type": "act", "keys": []},  # before an episode
    {"type": "resync"},
    {"type": "policy"},
    {"type": "?"},
    {},
    [],
    "[" * 1000,
    b"\x00",
]


def test_a_bad_message_is_an_error_and_the_tab_goes_on(port):
    with Tab(port) as tab:
        tab.receive()
        for message in BAD_MESSAGES:
            raw = message if isinstance(message, str | bytes) else json.dumps(message)
            told, _ = tab.ask_raw(raw)
            assert told["type"] == "error", message
            assert "\n" not in told["message"]
            assert "Traceback" not in told["message"]
        assert tab.begin()[0]["type"] == "view"


def test_a_huge_message_closes_the_tab(port):
    with Tab(port) as tab:
        tab.receive()
        tab.socket.send("x" * 10_000)
        with pytest.raises(websockets.exceptions.ConnectionClosedError):
            tab.receive()
        assert tab.socket.close_code == 1009


def test_more_tabs_than_places_are_told_so(bundle, tmp_path):
    with game(bundle=bundle, max_tabs=1) as port, Tab(port) as first:
        first.receive()
        with Tab(port) as second, pytest.raises(websockets.exceptions.ConnectionClosed):
            second.receive()
        assert second.socket.close_code == 1013
        assert first.begin()[0]["type"] == "view"


def test_a_lost_connection_records_what_was_played(bundle, tmp_path):
    with recording_in(tmp_path) as recording, game(recording, bundle) as port, Tab(port) as tab:
        tab.receive()
        tab.begin()
        tab.act("w")
        tab.act("w")
        tab.socket.socket.close()  # without a word
    assert recording.episodes == 1
    assert RldsIndex.open(recording.path).num_frames == 2


def test_a_dead_simulator_is_replaced(bundle, monkeypatch):
    pids = []

    def watched(*arguments):
        session = new_session(*arguments)
        pids.append(session.client.pid)
        return session

    monkeypatch.setattr("tests.playing.new_session", watched)
    with game(bundle=bundle) as port, Tab(port) as tab:
        tab.receive()
        tab.begin()
        os.kill(pids[0], signal.SIGKILL)
        told, _ = tab.act("w")
        assert told["type"] == "error"
        assert tab.act("w")[0]["type"] == "error"  # no episode
        assert tab.begin()[0]["type"] == "view"
        assert tab.act("w")[0]["step"] == 1
