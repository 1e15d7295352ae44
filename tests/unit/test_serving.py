"""The policy server on real sockets: both protocols, sessions, batches, deadlines, and abuse."""

import json
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose

pytest.importorskip("msgpack", reason="the extra 'serve' is not installed")

from websockets.exceptions import ConnectionClosed, InvalidStatus

from selfflow_robotics.errors import UserError
from selfflow_robotics.policies.address import parse_address
from selfflow_robotics.policies.noop import NoopPolicy
from selfflow_robotics.policies.remote import RemotePolicy
from selfflow_robotics.serving.access import Access, open_access
from selfflow_robotics.serving.description import Description
from selfflow_robotics.serving.server import Limits
from tests.servers import Client, Slow, get, our_server, picture, request
from tests.unit.test_packing import encoded

TOKEN = "a-secret-of-some-length"


@pytest.fixture(scope="module")
def port():
    with our_server(Slow()) as (port, _):
        yield port


@pytest.mark.parametrize("path", ["/", "/openpi"])
def test_openpi_gets_metadata_then_chunks_with_timings(port, path):
    with Client(port, path) as client:
        metadata = client.receive()
        assert metadata["action_spec"]["rotation"]["format"] == "euler_xyz"
        assert set(metadata["observation_spec"]) == {"primary", "language"}
        first, second = client.ask(request(100)), client.ask(request(200))
    for answer in (first, second):
        assert answer["actions"].shape == (2, 7)
        assert answer["actions"].dtype == np.float32
        assert answer["policy_timing"]["infer_ms"] >= 0
    assert "prev_total_ms" not in first["server_timing"]
    assert second["server_timing"]["prev_total_ms"] > 0
    assert_allclose(second["actions"][0, [3, 6]], [0.2, 0], atol=1e-6)  # closed: 1 is open
    assert [first["actions"][0, 1], second["actions"][0, 1]] == [0, 1]


@pytest.mark.parametrize("path", ["/", "/vla-eval"])
def test_vla_eval_gets_a_hello_then_one_action_for_each_observation(port, path):
    with Client(port, path) as client:
        if path == "/":
            client.tell("hello", {"protocol_version": 1})
            hello = client.receive()  # the server's first message is the answer
            kind, payload = hello["type"], hello["payload"]
        else:
            kind, payload = client.vla_eval("hello", {"protocol_version": 1})
        assert (kind, payload["protocol_version"]) == ("hello", 1)
        assert payload["observation_params"] == {"gripper_mode": "binary"}
        assert payload["action_spec"]["rotation"]["format"] == "axis_angle"
        client.tell("episode_start", {"task": {"name": "pick_coke_can", "episode_idx": 41}})
        seen = {"images": {"primary": picture(100)}, "task_description": "pick"}
        answers = [client.vla_eval("observation", seen) for _ in range(3)]
        client.tell("episode_end", {"metrics": {}, "steps": 3, "elapsed_sec": 0.1})
        client.tell("episode_start", {"task": {"name": "pick_coke_can", "episode_idx": 42}})
        answers.append(client.vla_eval("observation", seen))
    assert {kind for kind, _ in answers} == {"action"}
    actions = np.array([payload["actions"] for _, payload in answers])
    assert actions.shape == (4, 7)
    assert actions[:, 1].tolist() == [0, 0, 1, 0]  # a chunk has two; an episode begins anew
    assert actions[:, 2].tolist() == [41, 41, 41, 42]
    assert (actions[:, 6] > 0.5).all()


def test_png_images_arrive_whole(port):
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (16, 20, 3)).astype(np.uint8)
    png = encoded(pixels, "PNG")
    coded = {"__image__": True, "format": "png", "data": png, "shape": [16, 20, 3]}
    with Client(port) as client:
        client.receive()
        for image in (pixels, coded, png):
            answer = client.ask({"image": image, "prompt": "pick"})
            assert_allclose(answer["actions"][0, 3], pixels.mean() / 1000, atol=1e-6)


def test_a_client_may_name_its_episodes(port):
    with Client(port, "/openpi") as client:
        client.receive()
        named = {"task": "pick_coke_can", "variant": "standing", "seed": 7}
        seeds = [
            client.ask(message)["actions"][0, 2]
            for message in (request(), request(episode=named), request(), request(episode={}))
        ]
    assert seeds[1:3] == [7, 7]
    assert seeds[3] not in (7, seeds[0])


def test_requests_of_several_clients_become_batches_and_stay_apart():
    policy = Slow(seconds=0.03)
    count = 8
    with our_server(policy, Limits(window_s=0.02)) as (port, server):

        def play(number):
            with Client(port) as client:
                client.receive()
                answers = [client.ask(request(10 * number))["actions"][0] for _ in range(5)]
            return np.array(answers)

        with ThreadPoolExecutor(count) as pool:
            played = list(pool.map(play, range(count)))
        health = server.health()
    for number, answers in enumerate(played):
        assert_allclose(answers[:, 3], number / 100, atol=1e-6)
        assert answers[:, 1].tolist() == [0, 1, 2, 3, 4]
    assert len({answers[0, 2] for answers in played}) == count  # each has a seed of its own
    assert sum(policy.batches) == 5 * count
    assert max(policy.batches) >= 3
    assert health["requests"] == 5 * count
    assert health["latency_ms"]["p50"] >= 30


def test_late_and_surplus_requests_get_an_error_and_vla_evals_sessions_go_on():
    limits = Limits(deadline_s=0.3, max_waiting=1, max_batch=1)
    with our_server(Slow(seconds=0.6), limits) as (port, server):
        seen = {"images": {"primary": picture()}, "task_description": "pick"}
        with Client(port, "/vla-eval") as client, ThreadPoolExecutor(4) as pool:
            kind, payload = client.vla_eval("observation", seen)
            assert kind == "error"
            assert "0.3" in payload["error"]

            def ask(_):
                with Client(port, "/vla-eval") as other:
                    return other.vla_eval("observation", seen)[1]["error"]

            errors = list(pool.map(ask, range(4)))
            assert any("busy" in error for error in errors)
            assert {"late", "busy"} <= set(server.health()["errors"])
            time.sleep(0.6)
            assert client.vla_eval("hello", {"protocol_version": 1})[0] == "hello"


def test_a_policy_that_hangs_shows_in_the_health_answer():
    hangs = our_server(Slow(seconds=1), Limits(deadline_s=0.1))
    with hangs as (port, _), Client(port) as client:
        client.receive()
        assert isinstance(client.ask(request()), str)
        time.sleep(0.1)
        status, body = get(port, "/health")
    assert (status, json.loads(body)["status"]) == (503, "stalled")


def test_a_failure_of_the_policy_is_told_without_its_text_and_spares_the_others():
    server = our_server(Slow(seconds=0.4), Limits(window_s=0.1))
    with server as (port, _), Client(port) as good, Client(port) as bad:
        for client in (good, bad):
            client.receive()
        good.ask(request())  # how long the policy takes decides how long a batch stays open
        results = {}
        threads = [
            threading.Thread(target=lambda: results.update(good=good.ask(request()))),
            threading.Thread(
                target=lambda: results.update(bad=bad.ask(request(instruction="fail")))
            ),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert "actions" in results["good"]
        assert results["bad"].startswith("error: ")
        assert "secret" not in results["bad"]
        assert "Traceback" not in results["bad"]
        with pytest.raises(ConnectionClosed) as closed:
            bad.receive()
        assert closed.value.rcvd.code == 1011


@pytest.mark.parametrize("bad", [np.zeros((2, 8)), np.full((1, 7), np.nan), None, "actions"])
def test_actions_that_are_none_are_not_passed_on(bad):
    policy = NoopPolicy()
    policy.act = lambda slots, observations, infos: [bad for _ in slots]
    with our_server(policy) as (port, _), Client(port) as client:
        client.receive()
        assert client.ask(request()).startswith("error: ")


def test_a_policys_refusal_of_an_instruction_is_told():
    policy = NoopPolicy()

    def check(instruction):
        if len(instruction) > 10:
            raise UserError("the instruction is too long")

    policy.check_instruction = check
    with our_server(policy) as (port, _), Client(port) as client:
        client.receive()
        assert "actions" in client.ask(request())
        assert "too long" in client.ask(request(instruction="x" * 11))


def test_health_checks(port):
    assert get(port, "/healthz") == (200, "OK\n")
    status, body = get(port, "/health")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    assert get(port, "/config")[0] == 404


def test_a_token_is_asked_for_in_each_way_that_clients_send_it():
    with our_server(NoopPolicy(), access=Access(TOKEN)) as (port, _):
        assert get(port, "/healthz") == (200, "OK\n")
        assert json.loads(get(port, "/health")[1]) == {"status": "ok"}
        for value in (None, "Api-Key", f"Api-Key {TOKEN}x", "Basic ???", "Bearer Ã¼", f"X {TOKEN}"):
            headers = {} if value is None else {"Authorization": value}
            with pytest.raises(InvalidStatus) as refused:
                Client(port, additional_headers=headers)
            assert refused.value.response.status_code == 401
        for kind in ("Api-Key", "Bearer"):
            headers = {"Authorization": f"{kind} {TOKEN}"}
            assert "requests" in json.loads(get(port, "/health", headers)[1])
            with Client(port, additional_headers=headers) as client:
                assert client.receive()["policy"] == "noop"
        with Client(f"{port}", scheme=f"ws://x:{TOKEN}@127.0.0.1:{port}/?", path="") as client:
            assert client.receive()["policy"] == "noop"


def test_browsers_are_refused(port):
    with pytest.raises(InvalidStatus) as refused:
        Client(port, origin="https://example.com")
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "robot.example"])
def test_other_addresses_need_a_token_and_tls(host, monkeypatch):
    monkeypatch.delenv("SELFFLOW_TOKEN", raising=False)
    with pytest.raises(UserError):
        open_access(host, None, None)
    monkeypatch.setenv("SELFFLOW_TOKEN", TOKEN)
    with pytest.raises(UserError):
        open_access(host, None, None)
    assert open_access("127.0.0.1", None, None)[1] is None


@pytest.mark.parametrize("token", ["", "short", "with spaces in the middle", "ü" * 20])
def test_weak_tokens_are_refused(token, monkeypatch):
    monkeypatch.setenv("SELFFLOW_TOKEN", token)
    with pytest.raises(UserError):
        open_access("127.0.0.1", None, None)


def test_certificates_that_are_none_are_refused(tmp_path):
    path = tmp_path / "a.pem"
    path.write_text("nothing")
    for certificate, key in ((str(path), None), (str(path), str(path)), ("none.pem", str(path))):
        with pytest.raises(UserError):
            open_access("127.0.0.1", certificate, key)


def test_tls_with_a_certificate_of_ones_own(tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    files = [str(tmp_path / name) for name in ("certificate.pem", "key.pem")]
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]),
        ],
        check=True,
        capture_output=True,
    )
    monkeypatch.setenv("SELFFLOW_TOKEN", TOKEN)
    access, tls = open_access("0.0.0.0", *files)
    with our_server(NoopPolicy(), access=access, tls=tls) as (port, _):
        monkeypatch.setenv("SSL_CERT_FILE", files[0])
        policy = RemotePolicy(parse_address(f"remote:wss://127.0.0.1:{port}"), 5.0)
        assert policy.told["policy"] == "noop"
        policy.close()


def test_more_clients_than_places_are_refused_until_one_leaves():
    with our_server(NoopPolicy(), Limits(max_clients=1)) as (port, _):
        with Client(port) as client:
            client.receive()
            with pytest.raises(InvalidStatus) as refused:
                Client(port)
            assert refused.value.response.status_code == 503
        for _ in range(50):
            try:
                with Client(port) as client:
                    assert client.receive()["policy"] == "noop"
                break
            except InvalidStatus:
                time.sleep(0.02)
        else:
            pytest.fail("the place was not given back")


def test_a_policy_with_proprioception_says_so_and_gets_it():
    policy = NoopPolicy()
    shown = []

    def act(slots, observations, infos):
        shown.extend(observations)
        return [np.zeros((1, 7), np.float32) for _ in slots]

    policy.act = act
    description = Description("noop", needs_proprio=True)
    with our_server(policy, description=description) as (port, _), Client(port) as client:
        assert client.receive()["observation_spec"]["state"]["dims"] == 8
        state = np.arange(8, dtype=np.float32)
        assert "actions" in client.ask(request(**{"observation/state": state}))
        assert_allclose(shown[0]["proprio"], state)
        assert "state" in client.ask(request())
