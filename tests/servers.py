"""Policy servers in threads of this process: ours, and stand-ins for other people's."""

import asyncio
import http.client
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="the extra 'serve' is not installed")
pytest.importorskip("websockets", reason="the extra 'serve' is not installed")

from websockets.sync.client import connect
from websockets.sync.server import serve

from selfflow_robotics.messages.packing import MAX_BYTES, pack, unpack
from selfflow_robotics.serving.batching import Batcher
from selfflow_robotics.serving.description import Description
from selfflow_robotics.serving.server import Limits, serving


class Slow:
    """Takes `seconds` for a batch, counts its batches, and returns what tells requests apart:
    [slot, look, seed, mean of the image / 1000, 0, 0, close]."""

    name = "slow"
    privileged = False

    def __init__(self, seconds=0.0, horizon=2):
        self.seconds, self.horizon = seconds, horizon
        self.batches, self.begun, self.looks, self.seeds = [], [], {}, {}

    def begin(self, slot, episode):
        self.begun.append(episode)
        self.looks[slot], self.seeds[slot] = 0, episode.seed

    def act(self, slots, observations, infos):
        if any(observation["instruction"] == "fail" for observation in observations):
            raise RuntimeError("a secret path: /home/somebody")
        time.sleep(self.seconds)
        self.batches.append(len(slots))
        chunks = []
        for slot, observation in zip(slots, observations, strict=True):
            mean = observation["image"].mean() / 1000
            told = [slot, self.looks[slot], self.seeds[slot], mean, 0, 0, 1]
            self.looks[slot] += 1
            chunks.append(np.tile(np.float32(told), (self.horizon, 1)))
        return chunks


@contextmanager
def our_server(policy, limits=None, description=None, **options):
    """(port, server) of our server with the policy."""
    ready, holder = threading.Event(), {}
    limits = limits or Limits()

    async def run():
        holder["loop"], holder["stop"] = asyncio.get_running_loop(), asyncio.Event()
        batcher = Batcher(
            policy, limits.max_batch, limits.window_s, limits.max_waiting, limits.deadline_s
        )
        told = description or Description(policy.name, "google_robot")
        async with serving(batcher, told, port=0, limits=limits, **options) as (server, port):
            holder["server"], holder["port"] = server, port
            ready.set()
            await holder["stop"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield holder["port"], holder["server"]
    finally:
        holder["loop"].call_soon_threadsafe(holder["stop"].set)
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def openpi_server(answer, metadata=None):
    """The port of a server that does what openpi's does: metadata first, then an answer to each
    observation; an exception is a text frame with a traceback, and close 1011."""
    asked = []

    def handle(connection):
        connection.send(pack({} if metadata is None else metadata, "bytes"))
        for data in connection:
            asked.append(unpack(data))
            try:
                reply = answer(asked[-1])
            except Exception as error:
                connection.send(f"Traceback (most recent call last):\n  File x\n{error!r}")
                connection.close(1011, "Internal server error.")
                return
            connection.send(reply if isinstance(reply, str | bytes) else pack(reply, "bytes"))

    with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.socket.getsockname()[1], asked
        server.shutdown()


class Client:
    """A plain websocket with messages, for both protocols."""

    def __init__(self, port, path="/", scheme="ws", **options):
        options = {"max_size": MAX_BYTES, "compression": None, "ping_interval": None, **options}
        self.manager = connect(f"{scheme}://127.0.0.1:{port}{path}", **options)
        self.socket = self.manager.__enter__()
        self.seq = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.manager.__exit__(None, None, None)

    def receive(self, timeout=10):
        data = self.socket.recv(timeout=timeout)
        return data if isinstance(data, str) else unpack(data)

    def ask(self, message, keys="bytes"):
        self.socket.send(pack(message, keys))
        return self.receive()

    def tell(self, kind, payload):
        """Send a message of vla-eval's."""
        self.seq += 1
        message = {"type": kind, "payload": payload, "seq": self.seq, "timestamp": 0.0}
        self.socket.send(pack(message))

    def vla_eval(self, kind, payload):
        """The payload of the answer to a message of vla-eval's, after a check of its frame."""
        self.tell(kind, payload)
        reply = self.receive()
        assert reply["seq"] == self.seq
        return reply["type"], reply["payload"]


def picture(value=0, size=(16, 20)):
    return np.full((*size, 3), value, np.uint8)


def request(value=0, instruction="pick", **more):
    return {"observation/image": picture(value), "prompt": instruction, **more}


def get(port, path, headers=None):
    """(status, text) of an HTTP request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    return response.status, response.read().decode()
