"""The game of eval/play.py with a tiny network and the fake simulator, in a thread."""

import asyncio
import json
import struct
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("websockets", reason="the extra 'serve' is not installed")

from websockets.sync.client import connect

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.envs.tasks.catalog import TASKS
from selfflow_robotics.inference.imagination import Imagination
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.serving.access import Access
from selfflow_robotics.serving.play.controls import MOTIONS, OTHERS
from selfflow_robotics.serving.play.recording import FIRST_SEED, PlayRecording
from selfflow_robotics.serving.play.server import PlayServer, playing
from selfflow_robotics.serving.play.session import PlaySession
from tests.fractal import FRACTAL_STATS
from tests.networks import robot_bundle, robot_network, waken

ROOT = Path(__file__).parents[1]
SIZE = (16, 24)
CONFIG = RobotConfig(
    SiTConfig(width=48, depth=2, heads=3), image_size=SIZE, patch=8, later_frames=3
)
SPEC = SimulatorSpec(simulator="tests.fakes:FakeEnv", image_size=SIZE, path=str(ROOT))
GAMES = {name: TASKS[name] for name in ("pick_coke_can", "pick_standing_coke_can")}


def tiny_bundle(*roles, config=CONFIG):
    torch.manual_seed(0)
    network = waken(Network(robot_network(config)))
    return robot_bundle(config, network, roles or ("policy", "world_model"), FRACTAL_STATS)


def recording_in(root, name="played"):
    task = TASKS["pick_coke_can"]
    return PlayRecording(root, name, task, SIZE, {"simulator": "fake", "task": task.name})


def new_session(bundle, recording=None):
    policy = FlowPolicy(bundle) if "policy" in bundle.roles else None
    return PlaySession(SimulatorClient(SPEC), GAMES, Imagination(bundle), policy, recording)


@contextmanager
def game(recording=None, bundle=None, token=None, max_tabs=3, port=0):
    """The port of a running game."""
    bundle = bundle or tiny_bundle()
    has_policy = "policy" in bundle.roles
    hello = {
        "checkpoint": "run",
        "tasks": list(GAMES),
        "seed": FIRST_SEED,
        "first_recorded_seed": FIRST_SEED,
        "fps": 60,
        "has_policy": has_policy,
        "dataset": None if recording is None else str(recording.path),
        "motions": {key: label for key, (label, _, _) in MOTIONS.items()},
        "others": OTHERS,
    }
    ready, holder = threading.Event(), {}

    async def run():
        holder["loop"], holder["stop"] = asyncio.get_running_loop(), asyncio.Event()
        server = PlayServer(
            lambda: new_session(bundle, recording), hello, Access(token), max_tabs, future_steps=1
        )
        async with playing(server, port=port) as bound:
            holder["port"] = bound
            ready.set()
            await holder["stop"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield holder["port"]
    finally:
        holder["loop"].call_soon_threadsafe(holder["stop"].set)
        thread.join(30)
        assert not thread.is_alive()


class Tab:
    """What the page does, without a browser."""

    def __init__(self, port, **options):
        self.manager = connect(f"ws://127.0.0.1:{port}/play", compression=None, **options)
        self.socket = self.manager.__enter__()
        self.futures = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.manager.__exit__(None, None, None)

    def receive(self):
        """(told, frames) of a view or future, (told, None) of a text."""
        data = self.socket.recv(timeout=30)
        if isinstance(data, str):
            return json.loads(data), None
        (length,) = struct.unpack("<I", data[:4])
        told = json.loads(data[4 : 4 + length])
        shape = (told["count"], told["height"], told["width"], 3)
        return told, np.frombuffer(data[4 + length :], np.uint8).reshape(shape)

    def ask(self, **message):
        """The answer; futures that come before it are kept."""
        return self.ask_raw(json.dumps(message))

    def ask_raw(self, data):
        self.socket.send(data)
        while (answer := self.receive())[0]["type"] == "future":
            self.futures.append(answer)
        return answer

    def begin(self, task="pick_coke_can", seed=FIRST_SEED):
        return self.ask(type="reset", task=task, seed=seed)

    def act(self, *keys, **more):
        return self.ask(type="act", keys=list(keys), **more)
