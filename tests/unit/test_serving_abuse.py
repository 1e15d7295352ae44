"""Abuse of the policy server: everything a stranger may send, and that nobody else suffers."""

import json
import socket
import struct
import time

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="the extra 'serve' is not installed")

from websockets.exceptions import ConnectionClosed

from selfflow_robotics.messages.packing import MAX_BYTES, pack
from tests.servers import Client, Slow, get, our_server, picture, request
from tests.unit.test_packing import HOSTILE


@pytest.fixture(scope="module")
def port():
    with our_server(Slow()) as (port, _):
        yield port


BAD = {**HOSTILE, "text frame": "hello", "list": pack([1]), "no image": pack({"prompt": "x"})}


@pytest.mark.parametrize("path", ["/openpi", "/vla-eval"])
def test_abuse_gets_one_line_and_harms_nobody(port, path):
    with Client(port) as good:
        good.receive()
        for name, data in BAD.items():
            with Client(port, path) as client:
                if path == "/openpi":
                    client.receive()
                client.socket.send(data)
                answer = client.receive()
                text = answer if path == "/openpi" else answer["payload"]["error"]
                assert "\n" not in text, name
                assert "Traceback" not in text, name
        assert good.ask(request())["actions"].shape == (2, 7)


def test_frames_over_the_limit_close_the_connection(port):
    for frame in (bytes(MAX_BYTES + 1), None):
        with Client(port) as client:
            client.receive()
            if frame is None:  # one that only says so
                client.socket.socket.sendall(b"\x82\xff" + struct.pack(">Q", 1 << 40) + bytes(4))
            else:
                client.socket.send(frame)
            with pytest.raises(ConnectionClosed) as closed:
                client.receive()
            assert closed.value.rcvd.code == 1009


def test_bad_messages_of_vla_evals_protocol_are_answered_and_the_session_goes_on(port):
    with Client(port, "/vla-eval") as client:
        for message in (
            {},
            {"type": "reset", "payload": {}, "seq": 1, "timestamp": 0},
            {"type": "observation", "payload": 3, "seq": 1, "timestamp": 0},
            {"type": "observation", "payload": {}, "seq": "one", "timestamp": 0},
            {"type": ["hello"], "payload": {}, "seq": 1},
            {"type": "hello", "payload": {"protocol_version": 2}, "seq": 1, "timestamp": 0},
        ):
            client.socket.send(pack(message))
            assert client.receive()["type"] == "error", message
        assert client.vla_eval("hello", {"protocol_version": 1})[0] == "hello"


def test_half_open_and_silent_connections_harm_nobody(port):
    half_open = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    with Client(port, close_timeout=0.1) as silent, Client(port) as good:
        good.receive()
        for _ in range(20):  # it never reads
            silent.socket.send(pack(request(), "bytes"))
        began = time.monotonic()
        for _ in range(5):
            assert "actions" in good.ask(request())
        assert time.monotonic() - began < 5
    for connection in half_open:
        connection.close()


def test_thousands_of_damaged_messages_crash_nothing(port):
    draw = np.random.Generator(np.random.PCG64(3))
    seen = {"images": {"primary": picture(1, (4, 5))}, "task_description": "pick"}
    whole = pack({"type": "observation", "payload": seen, "seq": 1, "timestamp": 0.5})
    client = None
    for _ in range(2000):
        data = bytearray(whole)
        for place in draw.integers(0, len(data), draw.integers(1, 4)):
            data[place] = draw.integers(256)
        if client is None:
            client = Client(port, "/vla-eval").__enter__()
        try:
            client.socket.send(bytes(data))
            answer = client.receive(timeout=0.5)
        except TimeoutError:  # an episode_end, for example, has no answer
            continue
        except ConnectionClosed:
            client = None
            continue
        assert answer["type"] in ("action", "error", "hello")
    status, body = get(port, "/health")
    assert (status, json.loads(body)["status"]) == (200, "ok")
