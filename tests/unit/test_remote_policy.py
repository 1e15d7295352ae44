"""Policies on servers and in somebody's Python, behind the same interface as our own."""

import sys
import time

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("msgpack", reason="the extra 'serve' is not installed")

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.players import check_policy, data_of, image_size_of
from selfflow_robotics.messages.packing import pack
from selfflow_robotics.messages.specs import OPENPI, ActionSpec
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.policies.address import parse_address
from selfflow_robotics.policies.custom import custom_policy
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.policies.noop import NoopPolicy
from selfflow_robotics.policies.random import RandomPolicy
from selfflow_robotics.policies.remote import RemotePolicy
from selfflow_robotics.serving.access import Access
from selfflow_robotics.serving.description import Description
from selfflow_robotics.serving.server import Limits
from tests.fractal import FRACTAL_STATS
from tests.networks import robot_bundle, robot_network, waken
from tests.servers import Slow, openpi_server, our_server

EPISODE = EpisodeSpec("pick_coke_can", "standing", 5)
SEEN = {
    "image": np.full((16, 20, 3), 100, np.uint8),
    "instruction": "pick",
    "proprio": np.array([0, 0, 0, 0, 0, 0, 1, 0.5], np.float32),
}
ACTIONS = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, -0.6, 1], [0, 0, 0, 0, 0, 0, 0]], np.float32)


def remote(port, prefix="", timeout_s=5.0, **settings):
    return RemotePolicy(
        parse_address(f"remote:{prefix}ws://127.0.0.1:{port}"), timeout_s, **settings
    )


def played(policy, looks=2):
    """The chunks of one episode in slot 0."""
    policy.begin(0, EPISODE)
    return [policy.act([0], [SEEN], None)[0] for _ in range(looks)]


@pytest.mark.parametrize("prefix", ["", "vla-eval+"])
def test_our_server_acts_as_the_policy_itself(prefix):
    with our_server(Slow(horizon=1)) as (port, _):
        policy = remote(port, prefix)
        for chunk, expected in zip(played(policy), played(Slow(horizon=1)), strict=True):
            assert chunk.dtype == np.float32
            assert_allclose(chunk, expected, atol=1e-6)
        policy.close()


def test_a_network_on_a_server_acts_as_it_does_here():
    config = RobotConfig(SiTConfig(width=32, depth=2, heads=2))
    network = waken(Network(robot_network(config)))
    local = FlowPolicy(robot_bundle(config, network, ["policy"], FRACTAL_STATS))
    seen = {**SEEN, "image": np.full((64, 80, 3), 100, np.uint8)}
    local.begin(0, EPISODE)
    expected = [local.act([0], [seen])[0] for _ in range(2)]
    with our_server(local) as (port, _):
        policy = remote(port)
        policy.begin(0, EPISODE)
        for chunk in expected:
            assert_allclose(policy.act([0], [seen])[0], chunk, atol=1e-5)
        with pytest.raises(UserError, match=f"127.0.0.1:{port}"):
            policy.act([0], [{**seen, "instruction": "x" * 900}])


def test_each_slot_is_a_session_and_the_server_batches_them():
    server = Slow(seconds=0.02)
    with our_server(server, Limits(window_s=0.2)) as (port, _):
        policy = remote(port)
        for slot in range(4):
            policy.begin(slot, EpisodeSpec("pick_coke_can", "standing", 10 + slot))
        chunks = policy.act([2, 0, 3, 1], [SEEN] * 4)
        assert [chunk[0, 2] for chunk in chunks] == [12, 10, 13, 11]
        assert max(server.batches) >= 2
        policy.close()
    assert [episode.variant for episode in server.begun] == ["standing"] * 4


def test_what_our_server_tells_of_its_policy_chooses_the_simulator():
    training = {"simulator": "tabletop", "task": "pick_coke_can", "path": "/home/somebody"}
    description = Description(
        "network", "google_robot", 3.0, 6, "hash", (64, 80), training=training
    )
    with our_server(NoopPolicy(6), description=description) as (port, _):
        policy = remote(port)
        assert data_of(policy) == {"simulator": "tabletop", "task": "pick_coke_can"}
        assert image_size_of(policy) == (64, 80)
        assert remote(port).fingerprint == policy.fingerprint
        policy.close()


def test_openpis_reference_server_gets_its_keys_and_its_actions_are_converted():
    with openpi_server(lambda message: {"actions": ACTIONS}) as (port, asked):
        policy = remote(port, image_key="observation/image")
        [chunk] = played(policy, looks=1)
        policy.close()
    assert_allclose(chunk, OPENPI.to_environment(ACTIONS))
    assert chunk[:, 6].tolist() == [-1, 1]  # openness to a command
    [message] = asked
    assert set(message) == {"observation/image", "observation/state", "prompt"}
    assert_array_equal(message["observation/image"], SEEN["image"])
    assert data_of(policy) is None
    assert image_size_of(policy) == (256, 320)  # RT-1's
    assert image_size_of(RandomPolicy()) is None


def test_actions_are_read_as_the_server_declares_them():
    spec = ActionSpec("axis_angle", "binary_close_01")
    metadata = {"action_spec": spec.to_json()}
    with openpi_server(lambda message: {"actions": ACTIONS}, metadata) as (port, _):
        policy = remote(port)
        [chunk] = played(policy, looks=1)
        told, raw = policy.answered(0)
    assert_allclose(chunk[:, :6], ACTIONS[:, :6])
    assert chunk[:, 6].tolist() == [1, -1]
    assert told == spec
    assert_allclose(raw, ACTIONS)


def test_actions_that_are_not_finite_reach_the_engine_as_nan():
    bad = ACTIONS.copy()
    bad[0, 3] = np.nan
    with openpi_server(lambda message: {"actions": bad}) as (port, _):
        [chunk] = played(remote(port), looks=1)
    assert np.isnan(chunk[0]).all()


def _raise(message):
    raise ValueError("no such key: wrist")


ANSWERS = {
    "another shape": lambda message: {"actions": np.zeros((2, 14), np.float32)},
    "one action": lambda message: {"actions": np.zeros(7, np.float32)},
    "no actions": lambda message: {"action_chunk": ACTIONS},
    "text": lambda message: "busy",
    "garbage": lambda message: b"\xc1",
    "a list": lambda message: pack([1, 2]),
    "an object array": lambda message: pack(
        {"actions": {"__ndarray__": True, "data": bytes(8), "dtype": "|O", "shape": [1]}}
    ),
    "an exception": _raise,
    "no answer": lambda message: time.sleep(2),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_wrong_answers_are_one_line_that_names_the_server(name):
    with openpi_server(ANSWERS[name]) as (port, _):
        policy = remote(port, timeout_s=0.5)
        with pytest.raises(UserError, match=f"127.0.0.1:{port}") as caught:
            played(policy)
    assert "\n" not in str(caught.value)
    if name == "an exception":
        assert "no such key: wrist" in str(caught.value)


JOINTS = {"joints": {"name": "joints", "dims": 7, "format": "radians"}}


@pytest.mark.parametrize(
    "metadata",
    [
        {"action_spec": JOINTS},
        {"observation_spec": {"depth": {"name": "depth", "dims": 0, "format": "depth_m"}}},
        [1, 2],
    ],
)
def test_a_server_that_does_not_fit_is_refused_at_the_handshake(metadata):
    with openpi_server(lambda message: None, metadata) as (port, _), pytest.raises(UserError):
        remote(port)


def test_servers_that_are_not_there_or_refuse():
    with pytest.raises(UserError, match="cannot connect"):
        remote(1)
    closed = our_server(NoopPolicy(), access=Access("a-secret-of-some-length"))
    with closed as (port, _), pytest.raises(UserError, match="SELFFLOW_TOKEN"):
        remote(port)


def test_the_token_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("SELFFLOW_TOKEN", "a-secret-of-some-length")
    with our_server(NoopPolicy(), access=Access("a-secret-of-some-length")) as (port, _):
        remote(port).close()


def test_a_token_is_not_sent_in_the_clear():
    assert parse_address("remote:ws://127.0.0.1:8000").keeps_secrets
    assert parse_address("remote:wss://robot.example").keeps_secrets
    assert not parse_address("remote:ws://robot.example:8000").keeps_secrets


def test_a_server_that_was_started_again_goes_on_unless_it_serves_something_else():
    with our_server(NoopPolicy()) as (port, _):
        policy = remote(port)
        played(policy)
    with pytest.raises(UserError):
        played(policy)
    with our_server(NoopPolicy(), description=Description("another")) as (other, _):
        policy.address = parse_address(f"remote:ws://127.0.0.1:{other}")
        with pytest.raises(UserError, match="another policy"):
            played(policy)
    with our_server(NoopPolicy()) as (again, _):
        policy.address = parse_address(f"remote:ws://127.0.0.1:{again}")
        assert len(played(policy)) == 2
        policy.close()


@pytest.mark.parametrize(
    "text",
    [
        "remote:",
        "remote:127.0.0.1:8000",
        "remote:http://127.0.0.1",
        "remote:ws://",
        "remote:ws://host:port",
        "remote:ws://host:99999",
        "remote:ws://a b",
        "networks",
        "module:",
        ":Class",
        "a b:C",
    ],
)
def test_policies_of_no_known_form_are_refused(text):
    with pytest.raises(UserError):
        check_policy(text)


@pytest.mark.parametrize(
    ("text", "protocol", "url"),
    [
        ("remote:ws://host:1", "openpi", "ws://host:1"),
        ("remote:wss://u:p@host/path", "openpi", "wss://u:p@host/path"),
        ("remote:vla-eval+ws://[::1]:1", "vla-eval", "ws://[::1]:1"),
    ],
)
def test_addresses(text, protocol, url):
    address = parse_address(text)
    assert (address.protocol, address.url) == (protocol, url)
    assert "p@" not in address.shown
    check_policy(text)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of somebody's into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text):
        (tmp_path / "somebodys.py").write_text(text)
        sys.modules.pop("somebodys", None)

    yield write
    sys.modules.pop("somebodys", None)


GOOD = """
import numpy as np
class Mine:
    def begin(self, slot, episode): pass
    def act(self, slots, observations, infos): return [np.zeros((1, 7))] * len(slots)
"""


def test_a_class_of_somebodys_is_a_policy(module):
    module(GOOD)
    policy = custom_policy("somebodys:Mine")
    assert (policy.name, policy.privileged) == ("Mine", False)
    assert len(played(policy)) == 2
    before = policy.fingerprint
    assert custom_policy("somebodys:Mine").fingerprint == before
    module(GOOD + "# changed\n")
    assert custom_policy("somebodys:Mine").fingerprint != before


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("somebodys:Yours", GOOD),
        ("nobodys:Mine", GOOD),
        ("somebodys:np", GOOD),
        ("somebodys:Mine", "import nothing_of_this_name"),
        ("somebodys:Mine", "class Mine: pass"),
        ("somebodys:Mine", GOOD + "    name = '../x'\n"),
    ],
)
def test_classes_that_are_no_policies_are_refused(module, text, source):
    module(source)
    with pytest.raises(UserError, match="policy="):
        custom_policy(text)
